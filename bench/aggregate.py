"""Memory and time of making the next version from the files of updates.

Network and updates are made up: the tensors of nnU-Net's default 3d network of six stages (108,
125 MB in fp32), and one file of random updates per site, all in the cache of the system before
anything is timed. The strategy is FedAvg, updates and versions are fp32. Every measurement is made
in a process of its own.

 * Memory is the peak of anonymous memory (RssAnon of /proc/self/status, which leaves out mapped
   files) above what the process has before the call, looked at every 2 ms. With more sites than
   files the same file is given to several sites, which changes nothing for this.
 * The bound on time is to read the same files once, in blocks of 1 MiB into one buffer, and to
   write one file of the size of a model; both end with fsync. Bound and fedfs take turns, and the
   median of the turns' ratios counts. fedfs also hashes the weights, which the bound does not. It
   uses all cores and the bound waits for the disk: other work on the machine, see the load that
   is printed, makes the ratio larger. Processor time hardly depends on it, and is printed too.
 * fedfs is measured as it is, with numba, and with numpy alone: the same bits.
 * The usual way: torch.load of every state dict (.pt, the same few files in turn), torch.stack and
   mean of each tensor, torch.save and fsync.

    python bench/aggregate.py            # a table
    python bench/aggregate.py --json     # for a machine
    python bench/aggregate.py --quick    # a small network, to see that it works
    python bench/aggregate.py --copies 10 --sites 8    # 1.2 GB: the network ten times, and zeros
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation import fused_sums, strategies
from fedfs.aggregation.combine import Combination, Outputs, combine
from fedfs.store.local_files import sync
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.tensors.safetensors_layout import header_bytes

MEMORY_SITES = (4, 8, 16, 32)
N_PICKLES = 4
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1.1, 1.5
BLOCK_BYTES = 1 << 20
WRITTEN = "written*"


def write_zeros(folder: Path, shapes: dict[str, tuple[int, ...]], n_sites: int) -> None:
    """Write base and updates of zeros, as files with holes: large ones take no room on the disk."""
    layout = {name: ("F32", shape) for name, shape in shapes.items()}
    header = header_bytes(layout)
    n_bytes = len(header) + 4 * sum(math.prod(shape) for shape in shapes.values())
    for name in ("base", *(f"update-{site}" for site in range(n_sites))):
        (folder / name).write_bytes(header)
        os.truncate(folder / name, n_bytes)


def write_inputs(folder: Path, shapes: dict[str, tuple[int, ...]], n_sites: int) -> None:
    """Write the base, one update per site, and a few of these as torch writes them."""
    import torch

    rng = np.random.default_rng(1)
    base = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    write_safetensors(folder / "base", base)
    for site in range(n_sites):
        update = {
            name: array + np.float32(0.01) * rng.standard_normal(array.shape, dtype=np.float32)
            for name, array in base.items()
        }
        write_safetensors(folder / f"update-{site}", update)
        if site < N_PICKLES:
            state = {name: torch.from_numpy(array) for name, array in update.items()}
            torch.save(state, folder / f"update-{site}.pt")


def aggregate(folder: Path, updates: list[Path]) -> None:
    """Make the next version with fedfs."""
    sites = {f"site-{i:02}": path for i, path in enumerate(updates)}
    fp32 = encodings.by_name("fp32")
    with TensorFile(folder / "base") as base:
        combine(
            Combination(base, None, sites, dict.fromkeys(sites, 1 / len(sites)), version=1),
            strategy=strategies.by_name("FedAvg"),
            update_encoding=fp32,
            model_encoding=fp32,
            outputs=Outputs(
                *(folder / f"written-{what}" for what in ("model", "delta", "state", "ema"))
            ),
        )

    sync(folder / "written-model")


def aggregate_with_numpy(folder: Path, updates: list[Path]) -> None:
    """Make the next version with fedfs where numba is not installed."""
    worth, fused_sums.WORTH_COMPILING = fused_sums.WORTH_COMPILING, sys.maxsize
    aggregate(folder, updates)
    fused_sums.WORTH_COMPILING = worth


def read_and_write_once(folder: Path, updates: list[Path]) -> None:
    """The least that anybody has to do: read every update, write one model."""
    buffer = bytearray(BLOCK_BYTES)
    for path in updates:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = (folder / "base").stat().st_size
    with (folder / "written").open("wb", buffering=0) as file:
        while left:
            left -= file.write(memoryview(buffer)[: min(left, BLOCK_BYTES)])
        os.fsync(file.fileno())


def load_and_stack(folder: Path, updates: list[Path]) -> None:
    """Average as it is usually done."""
    import torch

    pickles = sorted(folder.glob("*.pt"))
    states = [torch.load(pickles[i % len(pickles)]) for i in range(len(updates))]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    with (folder / "written.torch").open("wb") as file:
        torch.save(mean, file)
        file.flush()
        os.fsync(file.fileno())


WAYS: dict[str, Callable[[Path, list[Path]], None]] = {
    "fedfs": aggregate,
    "numpy": aggregate_with_numpy,
    "bound": read_and_write_once,
    "usual": load_and_stack,
}


def updates_of(folder: Path, n_sites: int) -> list[Path]:
    files = sorted(path for path in folder.glob("update-*") if not path.suffix)
    return [files[i % len(files)] for i in range(n_sites)]


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much memory is anonymous")


def measure_memory(way: str, folder: Path, n_sites: int) -> dict[str, Any]:
    """Return the peak of anonymous memory while a way is gone once."""
    import torch  # noqa: F401  so that its import is part of no peak

    fused_sums.fused_add(sys.maxsize)  # nor that of numba
    updates, before, seen = updates_of(folder, n_sites), anonymous_bytes(), [0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            seen.append(anonymous_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    WAYS[way](folder, updates)
    done.set()
    thread.join()
    return {"sites": n_sites, "peak_bytes": max(seen) - before, "absolute_bytes": max(seen)}


def measure_time(ways: list[str], folder: Path, n_sites: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of ways that take turns, the first turn of each left out."""
    updates = updates_of(folder, n_sites)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way in ways:
            began, cpu_began = time.perf_counter(), time.process_time()
            WAYS[way](folder, updates)
            if turn:
                seconds[way].append(time.perf_counter() - began)
                cpu_seconds[way].append(time.process_time() - cpu_began)
            for path in folder.glob(WRITTEN):  # so that nobody waits for an old file to go
                path.unlink()
    first = seconds[ways[0]]
    return {
        way: {
            "best_s": round(min(times), 3),
            "median_s": round(statistics.median(times), 3),
            "cpu_s": round(statistics.median(cpu_seconds[way]), 3),
            "to_first": round(
                statistics.median(a / b for a, b in zip(times, first, strict=True)), 3
            ),
        }
        for way, times in seconds.items()
    }


def in_child(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(
    folder: Path, *, n_sites: int, n_stages: int, repeats: int, copies: int
) -> dict[str, Any]:
    import torch
    from alignment import default_net

    net, load = default_net(n_stages), os.getloadavg()[0]
    shapes = {f"{i:02}.{name}": net[name] for i in range(copies) for name in net}
    (write_inputs if copies == 1 else write_zeros)(folder, shapes, n_sites)
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    facts = {
        "machine": machine,
        "n_tensors": len(shapes),
        "model_bytes": (folder / "base").stat().st_size,
        "sites": n_sites,
    }
    if copies > 1:
        few = in_child(measure_memory, "fedfs", folder, max(n_sites // 8, 1))
        many = in_child(measure_memory, "fedfs", folder, n_sites)
        seconds = in_child(measure_time, ["bound", "fedfs", "numpy"], folder, n_sites, repeats)
        return {**facts, "memory": [few, many], "seconds": seconds}
    memory = [in_child(measure_memory, "fedfs", folder, n) for n in MEMORY_SITES]
    usual_memory = in_child(measure_memory, "usual", folder, n_sites)
    seconds = in_child(measure_time, ["bound", "fedfs", "numpy"], folder, n_sites, repeats)
    seconds |= in_child(measure_time, ["usual"], folder, n_sites, 3)
    own = in_child(measure_memory, "fedfs", folder, n_sites)
    fedfs, bound, usual = seconds["fedfs"], seconds["bound"], seconds["usual"]
    return {
        **facts,
        "memory": memory,
        "seconds": seconds,
        "usual_memory": usual_memory,
        "memory_32_to_4": round(memory[-1]["peak_bytes"] / memory[0]["peak_bytes"], 3),
        "time_to_bound": fedfs["to_first"],
        "best_time_to_bound": round(fedfs["best_s"] / bound["best_s"], 3),
        "usual_time_to_fedfs": round(usual["median_s"] / fedfs["median_s"], 2),
        "usual_memory_to_fedfs": round(usual_memory["peak_bytes"] / own["peak_bytes"], 1),
    }


def print_table(result: dict[str, Any]) -> None:
    machine, n_sites = result["machine"], result["sites"]
    print(
        f"{machine['cores']} cores (load {machine['load_before']} before), "
        f"Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']}"
    )
    print(f"{result['n_tensors']} tensors, {result['model_bytes'] / 1e6:.1f} MB, FedAvg, fp32\n")
    print(f"{'anonymous memory':20} {'sites':>5} {'peak MB':>9} {'absolute MB':>12}")
    usual = [result["usual_memory"]] if "usual_memory" in result else []
    for way, rows in (("fedfs", result["memory"]), ("usual way", usual)):
        for row in rows:
            print(
                f"{way:20} {row['sites']:>5} {row['peak_bytes'] / 1e6:>9.1f} "
                f"{row['absolute_bytes'] / 1e6:>12.1f}"
            )
    print(
        f"\n{'time, warm files':20} {'sites':>5} {'best s':>9} {'median s':>12} "
        f"{'processor s':>12} {'GB/s':>6} {'to bound':>9}"
    )
    names = {"bound": "read and write once", "fedfs": "fedfs", "numpy": "fedfs, numpy alone"}
    gigabytes = n_sites * result["model_bytes"] / 1e9
    for way, name in (names | {"usual": "usual way"}).items():
        row = result["seconds"].get(way)
        if row is not None:
            print(
                f"{name:20} {n_sites:>5} {row['best_s']:>9.3f} {row['median_s']:>12.3f} "
                f"{row['cpu_s']:>12.3f} {gigabytes / row['median_s']:>6.2f} {row['to_first']:>9.2f}"
            )
    if "time_to_bound" not in result:
        return
    print(
        f"\nthe usual way takes {result['usual_time_to_fedfs']} times the time and "
        f"{result['usual_memory_to_fedfs']} times the memory"
    )
    print(f"memory 32:4 sites: {result['memory_32_to_4']:.2f} (at most {MAX_MEMORY_RATIO})")
    print(
        f"time to bound: {result['time_to_bound']:.2f} (at most {MAX_TIME_RATIO}; "
        f"{result['best_time_to_bound']:.2f} for the best)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=16, help="of the measurements of time")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three stages instead of six")
    parser.add_argument(
        "--copies", type=int, default=1, help="of the network; more than one hold zeros"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            Path(folder),
            n_sites=options.sites,
            n_stages=3 if options.quick else 6,
            repeats=options.repeats,
            copies=options.copies,
        )
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print_table(result)


if __name__ == "__main__":
    sys.exit(main())
