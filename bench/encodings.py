"""What encodings cost in Dice: the same study per encoding, on hippocampus, with the real nnU-Net.

Three sites of 24, 16 and 10 cases train a 2d net for 20 rounds of 50 iterations; every update and
every global version travels in the encoding. Dice is nnU-Net's mean foreground Dice of the last
version, on 40 cases that no site has. Everything but the encoding is equal: cases, plan, initial
weights, schedule. nnU-Net's augmentation draws other random numbers in every run, so that the
encoding is not all that differs: fp32 alone gave Dice 0.660 and 0.773 in two runs. ``--seeds 5``
repeats each study with other initial weights, and tells the spread beside the mean.

    python bench/encodings.py                    # a table, some four minutes per study
    python bench/encodings.py --seeds 2 --json   # for a machine
    python bench/encodings.py --only fp32,int8 --rounds 4    # a part of it

Needs nnU-Net raw data with ``cases.csv`` (``--data``, by default the tests' hippocampus images).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fedfs.exchange.read import open_study
from fedfs.nnunet.score.predict import ScoreRequests
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.system.environment import HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.roles.reader.export import export_versions
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.demo_effort import PLANNER_OPTIONS
from fedfs.simulation.gpu_slots import Slot
from fedfs.simulation.hosts import Host, LocalStudy
from fedfs.store import open_store

DATASET = "Dataset900_Encodings"
N_CASES = {"large": 24, "middle": 16, "small": 10}
N_TEST = 40
CHOICES: dict[str, tuple[str, dict[str, float]]] = {
    "fp32": ("fp32", {}),
    "fp16": ("fp16", {}),
    "bf16": ("bf16", {}),
    "int8": ("int8", {}),
    "topk5": ("topk", {"fraction": 0.05}),
    "topk2-4bit": ("topk", {"fraction": 0.02, "bits": 4}),
    "topk1": ("topk", {"fraction": 0.01}),
    "fixed": ("fixed", {}),
    "randk5": ("randk", {"fraction": 0.05}),
}
DEFAULT = "fp32,fp16,int8,topk5"
TOLERANCE = 0.02


def default_data() -> Path:
    tests = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("FEDFS_TEST_DATA", tests)) / "hippocampus"


def divide(source: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return cases of each site, and those kept away: the first ones by name, taken in turn."""
    cases = sorted(case for of_site in read_cases(source).values() for case in of_site)
    if len(cases) < sum(N_CASES.values()) + N_TEST:
        raise SystemExit(f"{source} has {len(cases)} cases, too few")
    sites, begin = {}, N_TEST
    for site, n in N_CASES.items():
        sites[site] = cases[begin : begin + n]
        begin += n
    return sites, cases[:N_TEST]


def run(name: str, seed: int, source: Path, folder: Path, rounds: int) -> dict[str, Any]:
    encoding, choice = CHOICES[name]
    sites, test = divide(source)
    hosts = {}
    for site, cases in sites.items():
        hosts[site] = Host(site, folder / site).make()
        place_dataset(source, hosts[site].raw / DATASET, cases)
    options = ["--encoding", encoding, "--model-encoding", encoding]
    for key, value in choice.items():
        pair = f"{key}={value}"
        options += ["--encoding-option", pair, "--model-encoding-option", pair]
    study = LocalStudy(
        store=folder / "store",
        dataset=DATASET,
        dataset_json=source / "dataset.json",
        coordinator=Host("coordinator", folder / "coordinator").make(),
        sites=hosts,
        init=(
            "--name", "encodings", "-c", "2d", "--rounds", str(rounds), "--local-iterations", "50",
            "--val-iterations", "2", "--gpu-memory-target", "0.02", "--seed", str(seed), *options,
            *(word for o in PLANNER_OPTIONS for word in ("--planner-option", o)),
        ),
    )  # fmt: skip
    began_s = time.monotonic()
    study.begin()
    study.federate()
    store = open_store(str(study.store))
    state = open_study(store).state
    model = export_versions(store, folder / "model")[0].folder
    place_dataset(source, folder / "test", test)
    request = ScoreRequest(
        model=str(model),
        fold="0",
        images=str(folder / "test" / "imagesTr"),
        labels=str(folder / "test" / "labelsTr"),
        output=str(folder / "out"),
        host=HostSettings(device="cpu", num_processes=1),
        use_mirroring=False,
    )
    (scores,) = run_isolated(
        "score",
        ScoreRequests((request,)),
        environ=Host("score", folder, Slot(threads=2)).environment(),
        workdir=folder,
    )["results"]
    last = state.models[rounds]
    up = [update.payload.size for update in state.updates.values()]
    return {
        "encoding": name,
        "seed": seed,
        "dice": round(scores["mean_dice"], 4),
        "up_bytes": round(statistics.mean(up)),
        "down_bytes": last.payload.size,
        "parameters": last.n_parameters,
        "seconds": round(time.monotonic() - began_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--only", default=DEFAULT, help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"no images at {options.data}; name a dataset with --data")
    rows = []
    for seed in range(1, options.seeds + 1):
        for name in options.only.split(","):
            with tempfile.TemporaryDirectory(prefix="fedfs-encodings-") as folder:
                row = run(name, seed, options.data, Path(folder), options.rounds)
            rows.append(row)
            print(row, file=sys.stderr)
    summary = summarise(rows)
    if options.json:
        print(json.dumps({"rows": rows, "summary": summary}, indent=2))
        return
    print(
        f"{'encoding':12}{'Dice':>8}{'runs':>6}{'spread':>8}{'minus fp32':>12}{'up kB':>8}"
        f"{'down kB':>9}  verdict"
    )
    for row in summary:
        print(
            f"{row['encoding']:12}{row['dice']:>8.4f}{row['runs']:>6}{row['spread']:>8.4f}"
            f"{row['minus_fp32']:>12.4f}"
            f"{row['up_bytes'] / 1e3:>8.0f}{row['down_bytes'] / 1e3:>9.0f}  {row['verdict']}"
        )


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds per encoding, and how far it is from fp32."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["encoding"], []).append(row)
    exact = statistics.mean(r["dice"] for r in by_name["fp32"]) if "fp32" in by_name else math.nan
    out = []
    for of_name in by_name.values():
        dice = statistics.mean(row["dice"] for row in of_name)
        near = dice >= exact - TOLERANCE
        out.append(
            {
                **{key: of_name[0][key] for key in ("encoding", "up_bytes", "down_bytes")},
                "dice": round(dice, 4),
                "minus_fp32": round(dice - exact, 4),
                "runs": len(of_name),
                "spread": round(
                    max(r["dice"] for r in of_name) - min(r["dice"] for r in of_name), 4
                ),
                "verdict": f"at most {TOLERANCE} below" if near else f"more than {TOLERANCE} below",
            }
        )
    return out


if __name__ == "__main__":
    sys.exit(main())
