"""What updates and versions tell about who was trained on: ``fedfs site audit`` on real images.

    python bench/membership.py --data DIR --folder OUT --seeds 1,2,3

Trains studies of the sites of ``cases.csv`` with small 2d networks, and lets each site audit
itself. Which cases of a site take part, and which of these are trained on, is drawn for each seed.
May be stopped and given again.

``usual`` trains on 20 cases of each site, with nnU-Net's augmentation. ``worst`` is there to
overfit: 5 cases of each site, without augmentation. Both keep 20 cases of each site back.

Hosts take turns in this process, so that nnU-Net is imported once.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.nnunet.allowed import classes
from fedfs.nnunet.plan import planner
from fedfs.nnunet.system import requests
from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.aggregator.config import AggregatorConfig
from fedfs.roles.aggregator.run import run_aggregator
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites
from fedfs.roles.site.config import JoinConfig, SiteConfig
from fedfs.roles.site.join import join
from fedfs.roles.site.run import run_site
from fedfs.simulation.cases import place_dataset
from fedfs.simulation.demo_effort import QUICK
from fedfs.simulation.hosts import Host
from fedfs.store import open_store

DATASET = "Dataset900_Simulation"
N_KEPT_BACK = 20
TRAINER = "AdamWithoutAugmentation"
SOURCE = f"""
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import (
    nnUNetTrainerNoDA,
)
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import (
    nnUNetTrainerAdam1en3,
)


class {TRAINER}(nnUNetTrainerNoDA, nnUNetTrainerAdam1en3):
    pass
"""
HOST = HostSettings(device="cpu", num_processes=1, allowed_trainers=(TRAINER,))


@dataclass(frozen=True)
class Scenario:
    """A kind of study.

    Attributes:
        n_trained: cases of each site that are trained on.
        rounds, local_iterations: of the study.
        trainer: nnU-Net's, or ours.
    """

    n_trained: int
    rounds: int
    local_iterations: int
    trainer: str


SCENARIOS = {
    "usual": Scenario(20, 6, 60, QUICK.trainer),
    "worst": Scenario(5, 6, 60, TRAINER),
}


class Study:
    """A study whose hosts take turns in this process."""

    def __init__(self, scenario: str, seed: int, data: Path, folder: Path) -> None:
        self.name = f"{scenario}-{seed}"
        self._scenario, self._seed, self._data = SCENARIOS[scenario], seed, data
        self._folder = folder / self.name
        self._url = str(self._folder / "store")
        with (data / "cases.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._cases: dict[str, list[str]] = {}
        for row in rows:
            self._cases.setdefault(row["site"], []).append(row["case"])
        self.hosts = {
            site: Host(site, self._folder / "hosts" / site).make() for site in sorted(self._cases)
        }

    def train(self) -> None:
        done = self._folder / "trained"
        if done.exists():
            return
        store = open_store(self._url, must_exist=False)
        if not (self._folder / "joined").exists():
            self._begin(store)
            (self._folder / "joined").touch()
        while True:
            finished = []
            for site in self.hosts:
                self.at(site)
                config = SiteConfig(
                    self._url, site, self.home(site), host=HOST, final_validation=False, once=True
                )
                finished.append(run_site(config, quiet).finished)
            config = AggregatorConfig(
                self._url, self.home("coordinator"), folder=self._folder / "work", host=HOST,
                report=False, once=True,
            )  # fmt: skip
            if all([*finished, run_aggregator(config, quiet).finished]):
                break
        done.touch()

    def _begin(self, store: Any) -> None:
        chosen = self._scenario
        content = json.loads((self._data / "dataset.json").read_text())
        options = StudyOptions(
            name="membership", dataset_json=content, configuration="2d", seed=self._seed,
            rounds=chosen.rounds, local_iterations=chosen.local_iterations, val_iterations=1,
            trainer=chosen.trainer, min_sites=len(self.hosts),
            gpu_memory_target_gb=QUICK.gpu_memory_gb,
            planner_options={
                name: float(number)
                for name, _, number in (option.partition("=") for option in QUICK.planner_options)
            },
        )  # fmt: skip
        versions = classes.versions()
        home = self.home("coordinator")
        init_study(store, home, options, clock=time.time, versions=versions)
        rng = np.random.default_rng(self._seed)
        for site, host in self.hosts.items():
            cases = sorted(self._cases[site])
            drawn = [cases[i] for i in rng.permutation(len(cases))]
            trained, kept = drawn[: chosen.n_trained], drawn[-N_KEPT_BACK:]
            raw = host.raw / DATASET
            place_dataset(self._data, raw, [*trained, *kept])
            split = {"train": sorted(trained), "val": sorted(kept)}
            (raw / "splits_final.json").write_text(json.dumps([split]))
            self.at(site)
            join(JoinConfig(self._url, site, DATASET, self.home(site)), quiet)
        approve_sites(Coordinator(store, home, clock=time.time), None)

    def home(self, host: str) -> Path:
        return self._folder / "hosts" / host / "home"

    def at(self, site: str) -> None:
        os.environ |= self.hosts[site].paths.variables()


def quiet(_progress: Any) -> None:
    pass


def run_here(
    function: str, request: Any, *, environ: Mapping[str, str] | None = None, **_: Any
) -> Any:
    """Call what fedfs runs in a child process, which would import nnU-Net again."""
    from fedfs.nnunet import child

    del environ
    fields = json.loads(json.dumps(requests.to_json(request)))
    return json.loads(json.dumps(child.FUNCTIONS[function](fields, quiet)))


def prepare_process(folder: Path) -> None:
    trainers = folder / "trainers"
    trainers.mkdir(parents=True, exist_ok=True)
    (trainers / f"{TRAINER}.py").write_text(SOURCE)
    os.environ |= {
        "nnUNet_extTrainer": str(trainers), "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    planner.run_isolated = run_here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    given = parser.parse_args()
    folder = given.folder.resolve()
    prepare_process(folder)
    studies = [
        Study(name, seed, given.data.resolve(), folder)
        for seed in map(int, given.seeds.split(","))
        for name in given.scenarios.split(",")
    ]
    for study in studies:
        study.train()
        print(f"- {study.name} is trained", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
