"""What updates and versions tell about who was trained on: ``fedfs site audit`` on real images.

    python bench/membership.py --data DIR --folder OUT --seeds 1,2,3

Trains studies of the sites of ``cases.csv`` with small 2d networks, and lets each site audit
itself. Which cases of a site take part, and which of these are trained on, is drawn for each seed.
May be stopped and given again.

The table has the cases of all sites and seeds together; before that, the scores of each model are
moved and scaled so that those of the cases that were kept back have the mean 0 and the SD 1.

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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from fedfs.aggregation.membership import CaseFit, attack, separate
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
from fedfs.roles.site.membership.audit import AuditOptions, audit_membership
from fedfs.roles.site.membership.result import MembershipAudit
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
Attacks = Mapping[str, Mapping[str, float]]
"""Attack -> case -> score."""

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
    "usual": Scenario(20, 20, 50, QUICK.trainer),
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
            aggregator = AggregatorConfig(
                self._url, self.home("coordinator"), folder=self._folder / "work", host=HOST,
                report=False, once=True,
            )  # fmt: skip
            if all([*finished, run_aggregator(aggregator, quiet).finished]):
                break
        done.touch()

    def audit(self, *, n_references: int, inversion: bool) -> dict[str, MembershipAudit]:
        """Let each site audit the first and last models; return site -> what it finds."""
        last = self._scenario.rounds
        options = AuditOptions(
            versions=(0, last - 1, last), n_references=n_references, inversion=inversion
        )
        found = {}
        for site in self.hosts:
            self.at(site)
            config = SiteConfig(self._url, site, self.home(site), host=HOST)
            (found[site],) = audit_membership(config, options, quiet)
            print(f"- {site} of {self.name} is audited", file=sys.stderr, flush=True)
        return found

    def scores(self) -> list[dict[str, Attacks]]:
        """Return for each site: model -> attack -> case -> score; those kept back have 0 +- 1."""
        return [self._scores(site) for site in self.hosts]

    def _scores(self, site: str) -> dict[str, Attacks]:
        (folder,) = self.hosts[site].results.glob("fedfs/*/*/tracks/*/membership")
        raw = self.hosts[site].raw / DATASET / "splits_final.json"
        trained = set(json.loads(raw.read_text())[0]["train"])

        def fits(name: str) -> dict[str, CaseFit]:
            content = json.loads((folder / f"{name}.json").read_text())["cases"]
            return {case: CaseFit(**fit) for case, fit in content.items()}

        references = [fits(path.stem) for path in sorted(folder.glob("reference-*.json"))]
        last = self._scenario.rounds
        first_update, last_update = (
            attack(
                fits(f"update-{n:05d}"), before=fits(f"version-{n:05d}"),
                following=fits(f"version-{n + 1:05d}"), references=references,
            )
            for n in (0, last - 1)
        )  # fmt: skip
        final = attack(
            fits(f"version-{last:05d}"), before=fits(f"version-{last - 1:05d}"),
            references=references,
        )  # fmt: skip
        models = {
            "version 0": attack(fits("version-00000")),
            "first update": first_update,
            "last update": last_update,
            "last version": final,
        }
        return {
            model: {name: standardised(one, trained) for name, one in attacks.items()}
            for model, attacks in models.items()
        }

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


def standardised(scores: Mapping[str, float], trained: Collection[str]) -> dict[str, float]:
    """Return scores by which sites can be put together; what was trained on begins with T."""
    kept = [score for case, score in scores.items() if case not in trained]
    middle, spread = fmean(kept), stdev(kept) or 1.0
    return {
        f"{'T' if case in trained else 'K'}-{case}": (score - middle) / spread
        for case, score in scores.items()
    }


def table(studies: Sequence[Study]) -> list[str]:
    """Return the lines of a table over all sites and seeds of one scenario."""
    pooled: dict[tuple[str, str], dict[str, float]] = {}
    for study in studies:
        for of_site in study.scores():
            for model, attacks in of_site.items():
                for name, one in attacks.items():
                    into = pooled.setdefault((model, name), {})
                    into |= {f"{case}-{study.name}": score for case, score in one.items()}
    lines = [
        "| model | attack | AUC (95 % interval) | true positives at 1 % (95 % interval) | n |",
        "|---|---|---|---|---|",
    ]
    for (model, name), scores in pooled.items():
        found = separate(scores, [case for case in scores if case[0] == "T"], {}, seed=1)
        lines.append(
            f"| {model} | {name} | {found.auc:.2f} ({found.auc_low:.2f} to {found.auc_high:.2f}) | "
            f"{found.tpr:.0%} ({found.tpr_low:.0%} to {found.tpr_high:.0%}) | "
            f"{found.n_trained} and {found.n_others} |"
        )
    return lines


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
    vars(planner)["run_isolated"] = run_here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--references", type=int, default=0, help="of each site, even")
    parser.add_argument("--inversion", action="store_true")
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
        audits = study.audit(n_references=given.references, inversion=given.inversion)
        for site, found in audits.items():
            dice = [m for m in found.models if m.kind == "version" and m.version is not None][-1]
            print(
                f"{study.name} {site}: Dice of the last version {dice.dice_trained:.3f} where it "
                f"was trained, {dice.dice_others:.3f} where not"
            )
            for one in found.inversions:
                print(f"  patch by the gradient of version {one.version}: {one}")
    for name in given.scenarios.split(","):
        chosen = [study for study in studies if study.name.startswith(f"{name}-")]
        print(f"\n{name}, seeds {given.seeds}\n", *table(chosen), sep="\n")


if __name__ == "__main__":
    main()
