"""The mean of updates beside Flower's and NVFlare's, of the same files on the same machine.

fedfs is timed from the files of the updates to the file of the next version: it reads, checks,
adds, hashes and writes. A framework holds all updates in memory, as its server does at the end of
a round; its mean is timed alone, and its reading and writing beside it. All take turns, each in a
process of its own, and the median of the turns counts. Results are compared.

    python bench/aggregate_peers.py --flower PYTHON --nvflare PYTHON    # of environments of theirs
    python bench/aggregate_peers.py --sites 4 --repeats 1 --flower PYTHON
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from aggregate import in_child, measure_memory, measure_time, updates_of, write_inputs
from aggregate_peer import read
from alignment import default_net

from fedfs.tensors.canonical import TensorFile

PEER = Path(__file__).with_name("aggregate_peer.py")


def peer(python: str, framework: str, folder: Path, n_sites: int) -> dict[str, float]:
    """Let a framework make the mean once; return seconds and MB."""
    updates = [str(path) for path in updates_of(folder, n_sites)]
    done = subprocess.run(
        [python, str(PEER), framework, str(folder / framework), *updates],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{framework} by {python} failed:\n{done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def furthest(folder: Path, framework: str, n_sites: int) -> float:
    """Return the largest difference of any value between a framework's mean and the exact one."""
    mean = np.fromfile(folder / framework, "<f4")
    updates, start, largest = [read(p) for p in updates_of(folder, n_sites)], 0, 0.0
    for name in updates[0]:
        exact = np.mean([one[name].ravel() for one in updates], axis=0, dtype=np.float64)
        own = mean[start : start + exact.size]
        largest, start = max(largest, float(np.abs(own - exact).max())), start + exact.size
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flower", help="Python of an environment with flwr")
    parser.add_argument("--nvflare", help="Python of an environment with nvflare")
    given = parser.parse_args()
    peers = {"flwr": given.flower, "nvflare": given.nvflare}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("fedfs", *peers)}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_inputs(folder, default_net(6), given.sites)
        with TensorFile(folder / "base") as base:
            size = sum(base.read(name).nbytes for name in base.names)
        for _ in range(given.repeats):
            rows["fedfs"].append(in_child(measure_time, ["fedfs"], folder, given.sites, 1)["fedfs"])
            for name, python in peers.items():
                if python:
                    rows[name].append(peer(python, name, folder, given.sites))
        memory = in_child(measure_memory, "fedfs", folder, given.sites)["absolute_bytes"] / 1e6
        errors = {n: furthest(folder, n, given.sites) for n, p in peers.items() if p}

    def median(name: str, key: str) -> float:
        return statistics.median(row[key] for row in rows[name])

    whole, cpu = median("fedfs", "median_s"), median("fedfs", "cpu_s")
    print(f"{given.sites} updates of {size / 1e6:.1f} MB, medians of {given.repeats} turns")
    print(f"fedfs    files to file {whole:.2f} s, processor {cpu:.2f} s, {memory:.0f} MB")
    for name, python in peers.items():
        if not python:
            print(f"{name:<8} not measured: no Python with {name} was given")
            continue
        parts = {key: median(name, f"{key}_s") for key in ("read", "mean", "mean_cpu", "write")}
        print(
            f"{name:<8} mean alone {parts['mean']:.2f} s, processor {parts['mean_cpu']:.2f} s; "
            f"reading {parts['read']:.2f} s, writing {parts['write']:.2f} s; "
            f"{median(name, 'peak_mb'):.0f} MB; at most {errors[name]:.1g} from the exact mean"
        )


if __name__ == "__main__":
    main()
