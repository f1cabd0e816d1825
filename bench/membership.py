"""What updates and versions tell about who was trained on: ``fedfs site audit`` on real images.

    python bench/membership.py --data DIR --folder OUT --seeds 1,2,3

Trains studies of the sites of ``cases.csv`` with small networks. Which of a site's cases take part,
and which of those are trained on, is drawn for each seed. Then each site audits itself. May be
stopped and given again.

``usual`` trains on 20 cases of each site with nnU-Net's augmentation. ``worst`` is there to
overfit: 5 cases of each site, without augmentation. Both have 20 cases of each site kept back.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfs.simulation.cases import place_dataset
from fedfs.simulation.demo_effort import QUICK
from fedfs.simulation.hosts import Host, LocalStudy

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
    "worst": Scenario(5, 6, 80, TRAINER),
}


class TrainerHost(Host):
    """A host whose operator allows our trainer."""

    def environment(self) -> dict[str, str]:
        allowed = {
            f"FEDFS_{command}_ALLOW_TRAINER": TRAINER for command in ("SITE_RUN", "AGGREGATE")
        }
        trainers = str(self.folder.parents[1] / "trainers")
        return {**super().environment(), "nnUNet_extTrainer": trainers, **allowed}


def study_of(name: str, seed: int, data: Path, folder: Path) -> LocalStudy:
    scenario, rng = SCENARIOS[name], np.random.default_rng(seed)
    (folder / "trainers").mkdir(parents=True, exist_ok=True)
    (folder / "trainers" / f"{TRAINER}.py").write_text(SOURCE)
    with (data / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    hosts: dict[str, Host] = {}
    for site in sorted({row["site"] for row in rows}):
        cases = sorted(row["case"] for row in rows if row["site"] == site)
        drawn = [cases[i] for i in rng.permutation(len(cases))]
        trained, kept = drawn[: scenario.n_trained], drawn[-N_KEPT_BACK:]
        hosts[site] = TrainerHost(site, folder / "hosts" / site).make()
        raw = hosts[site].raw / DATASET
        place_dataset(data, raw, [*trained, *kept])
        split = {"train": sorted(trained), "val": sorted(kept)}
        (raw / "splits_final.json").write_text(json.dumps([split]))
    return LocalStudy(
        store=folder / "store",
        dataset=DATASET,
        dataset_json=data / "dataset.json",
        coordinator=TrainerHost("coordinator", folder / "hosts" / "coordinator").make(),
        sites=hosts,
        init=(
            "--name", "membership", "-c", "2d", "--rounds", str(scenario.rounds),
            "--local-iterations", str(scenario.local_iterations), "--val-iterations", "2",
            "--seed", str(seed), "--trainer", scenario.trainer,
            f"--gpu-memory-target={QUICK.gpu_memory_gb}",
            *(f"--planner-option={option}" for option in QUICK.planner_options),
        ),
        run=("--no-final-validation", "--device", "cpu"),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    given = parser.parse_args()
    for seed in map(int, given.seeds.split(",")):
        for name in given.scenarios.split(","):
            folder = given.folder.resolve() / f"{name}-{seed}"
            if (folder / "trained").exists():
                continue
            print(f"- training {folder.name}", file=sys.stderr, flush=True)
            study = study_of(name, seed, given.data.resolve(), folder)
            study.begin()
            study.federate()
            (folder / "trained").touch()


if __name__ == "__main__":
    main()
