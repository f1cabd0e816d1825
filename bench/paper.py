"""The paper's claim on real images: is FFE above local training at every site, and near central?

    python bench/paper.py --data DIR --folder OUT --seeds 1,2,3

Each arm trains the same net (by default a small 2d one; ``-c 3d_fullres --full`` is nnU-Net's own
plan, for a GPU) for the same number of iterations at each site, with nnU-Net's schedule over all;
a quarter of each site's cases is kept away from all arms. The central arm has all training cases in
one place and as many iterations as one site has. Prints the table, and for each site the gain of
FFE over local and what it lacks to central. May be stopped and given again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedfs.cli.simulation import table
from fedfs.simulation.demo_effort import PLANNER_OPTIONS
from fedfs.simulation.experiment import Experiment, ExperimentOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-iterations", type=int, default=50)
    parser.add_argument("--arms", default="local,ffe,central")
    parser.add_argument("-c", "--configuration", default="2d")
    parser.add_argument("--full", action="store_true", help="nnU-Net's own plan, for a GPU")
    options = parser.parse_args()
    small = ["--gpu-memory-target", "0.02"]
    small += [word for option in PLANNER_OPTIONS for word in ("--planner-option", option)]
    options.folder.mkdir(parents=True, exist_ok=True)
    result = Experiment(
        ExperimentOptions(
            folder=options.folder.resolve(),
            data=options.data.resolve(),
            arms=options.arms.split(","),
            seeds=[int(seed) for seed in options.seeds.split(",")],
            rounds=options.rounds,
            local_iterations=options.local_iterations,
            val_iterations=2,
            configurations=[options.configuration],
            init=() if options.full else small,
        ),
        log=lambda text: print(f"- {text}", file=sys.stderr, flush=True),
    ).run()
    heading, rows = table(result)
    for row in (heading, *rows):
        print(" | ".join(f"{cell:<20}" for cell in row))
    if {"local", "ffe", "central"} <= set(result.cells):
        for site in (*result.n_training_cases, "mean"):
            local, ffe, central = (result.cells[a][site].dice for a in ("local", "ffe", "central"))
            print(f"{site:<8} FFE - local {ffe - local:+.4f}   FFE - central {ffe - central:+.4f}")


if __name__ == "__main__":
    main()
