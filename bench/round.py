"""The aggregator's part of a round: seconds from the last update to the next version.

A real federation on a folder store, with learners that cost nothing and nnU-Net's default 3d
network of six stages (125 MB in fp32). Each round all updates but one are there and were received;
then the last one appears, and the aggregator's steps are timed until the next version is published:
it copies the update from the store, compares its hash, checks its values, makes the version, hashes
it, copies it to the store and waits for the disk.

The bound is to read every update once and to write one model, with fsync, on the same disk in turn
with the rounds; the bound of the last one reads the last update alone. Before each, 40 times
as much memory is touched: pages of a virtual machine that were idle are slow.

    python bench/round.py                # three sites, four rounds
    python bench/round.py --sites 16
    python bench/round.py --quick        # a small network, to see that it works
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from aggregate import read_and_write_once
from alignment import default_net
from touched import touch_memory

from fedfs.simulation.virtual.fake_learner import FakePlanner
from fedfs.store.folder import FolderStore
from support import federation as fake


def timed(function: Any, *arguments: Any) -> dict[str, float]:
    """Return the seconds of a call, and the processor's."""
    began, cpu_began = time.perf_counter(), time.process_time()
    function(*arguments)
    return {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}


def measure(folder: Path, *, n_sites: int, n_stages: int, rounds: int) -> dict[str, Any]:
    """Run a federation; return what the end of each round cost, and its bounds."""
    shapes, rng = default_net(n_stages), np.random.default_rng(1)
    targets = {f"s{i:02}": float(i % 7) for i in range(n_sites)}
    store = FolderStore(folder / "store", must_exist=False)
    study = fake.Federation(folder / "hosts", targets=targets, rounds=rounds, store=store)
    study.planner = FakePlanner(
        {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    )
    study.start()
    for name in (*targets, "aggregator"):
        study.run_process(name)
    size = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    rows, megabytes = [], 40 * size // 10**6
    for version in range(1, rounds + 1):
        *first, last = targets
        for name in first:
            study.run_process(name)
            study.learners[name].seen.clear()
        study.run_process("aggregator")
        study.run_process(last)
        study.learners[last].seen.clear()
        touch_memory(folder, megabytes)
        row = {"round": timed(study.run_process, "aggregator")}
        state = study.observe().state
        if state.newest != version:
            raise RuntimeError(f"version {version} was not made")
        updates = [
            folder / "store" / study.place.track.prefix / update.payload.key
            for update in state.updates.values()
            if update.base_version == version - 1
        ]
        base = folder / "base"
        base.symlink_to(updates[0])
        touch_memory(folder, megabytes)
        row["bound"] = timed(read_and_write_once, folder, updates)
        touch_memory(folder, megabytes)
        row["bound_last"] = timed(read_and_write_once, folder, updates[-1:])
        base.unlink()
        record = state.rounds[version].seconds
        rows.append({**row, "record": dict(record)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    own = rows[1:] or rows  # the first holds imports

    def median(what: str, unit: str = "s") -> float:
        return round(statistics.median(row[what][unit] for row in own), 3)

    return {
        "sites": n_sites,
        "model_bytes": size,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "round_s": median("round"),
        "round_cpu_s": median("round", "cpu_s"),
        "bound_s": median("bound"),
        "bound_cpu_s": median("bound", "cpu_s"),
        "bound_of_last_s": median("bound_last"),
        "beyond_bound_s": round(
            statistics.median(row["round"]["s"] - row["bound"]["s"] for row in own), 3
        ),
        "to_bound_of_last": round(
            statistics.median(row["round"]["s"] / row["bound_last"]["s"] for row in own), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="three stages instead of six")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            Path(folder),
            n_sites=options.sites,
            n_stages=3 if options.quick else 6,
            rounds=options.rounds,
        )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
