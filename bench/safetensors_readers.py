"""Why fedfs has a reader of its own beside the safetensors library: what each does with hard files.

Three things are shown:

 * A file is cut off while a process has it open: how the process ends that reads on.
 * Processor time to read a tensor once in slices of 1 MiB, from the system's cache; the readers
   take turns, and the median of the turns' ratios counts. The library has two backends: it maps
   the file, or it reads at a position (0.8.0). nnU-Net's largest tensors have about 11 MiB.
 * Headers that the format forbids, or that fedfs does not accept in values: which are refused.

    python bench/safetensors_readers.py    # a table
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors

from fedfs.errors import RejectedError
from fedfs.tensors.canonical import write_safetensors
from fedfs.tensors.safetensors_reader import TensorFile

SLICE = 1 << 18  # values of float32: 1 MiB
SIZES = (4, 8, 16, 32)  # MiB
TURNS = 7


def by_fedfs(path: Path, check: Callable[[], None] = lambda: None) -> None:
    with TensorFile(path) as file:
        check()
        buffer = np.empty(SLICE, np.float32)
        for start in range(0, file.shape("t")[0], SLICE):
            file.read_slice("t", start, start + SLICE, out=buffer)


def by_library(path: Path, check: Callable[[], None] = lambda: None, **options: str) -> None:
    with safetensors.safe_open(path, framework="numpy", **options) as file:
        check()
        values = file.get_slice("t")
        for start in range(0, values.get_shape()[0], SLICE):
            values[start : start + SLICE]


def mapped(path: Path, check: Callable[[], None] = lambda: None) -> None:
    by_library(path, check)


def positioned(path: Path, check: Callable[[], None] = lambda: None) -> None:
    by_library(path, check, backend="pread")


def cut_off(path: Path, read: Callable[..., None]) -> str:
    """Return how a process ends whose file is cut off between opening and reading."""

    def child() -> None:
        try:
            read(path, lambda: os.truncate(path, 4096))
        except (RejectedError, safetensors.SafetensorError) as error:
            os._exit(0 if str(error) else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    code = process.exitcode or 0
    return f"killed by signal {-code}" if code < 0 else "an error that can be handled"


def accepted(path: Path, read: Callable[..., None]) -> bool:
    try:
        read(path)
    except (RejectedError, safetensors.SafetensorError):
        return False
    return True


def whole_by_fedfs(path: Path) -> None:
    with TensorFile(path) as file:
        dict(file)


def whole_by_library(path: Path) -> None:
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  no mapping
            file.get_tensor(name)


def forged(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def bytes_read() -> int:
    """Return the bytes that this process has read by system calls; mapped pages do not count."""
    return int(Path("/proc/self/io").read_text().split()[1])


def show_times(path: Path, readers: list[Callable[..., None]]) -> None:
    times: dict[str, list[float]] = {read.__name__: [] for read in readers}
    n_read: dict[str, int] = {}
    for _ in range(TURNS + 1):  # the first one warms the cache
        for read in readers:
            began, before = time.process_time(), bytes_read()
            read(path)
            times[read.__name__].append(time.process_time() - began)
            n_read[read.__name__] = bytes_read() - before
    for name, seconds in times.items():
        turns = zip(seconds[1:], times["by_fedfs"][1:], strict=True)
        ratio = statistics.median(one / ours for one, ours in turns)
        median_ms = 1e3 * statistics.median(seconds[1:])
        print(
            f"  {name:12} {median_ms:8.1f} ms {ratio:6.1f} x {n_read[name] / 2**20:6.0f} MiB read"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.parse_args()
    readers: list[Callable[..., None]] = [by_fedfs, mapped, positioned]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.safetensors")
        print(f"safetensors {safetensors.__version__}")
        for n_slices in SIZES:
            tensors = {"t": np.zeros(n_slices * SLICE, np.float32)}
            write_safetensors(path, tensors)
            print(f"a tensor of {n_slices} MiB in slices of 1 MiB")
            show_times(path, readers)
        print("a file that is cut off while it is open")
        for read in readers:
            write_safetensors(path, tensors)
            print(f"  {read.__name__:12} {cut_off(path, read)}")
        entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}).encode()
        one = np.float32(1).tobytes()
        for what, data in {
            "a name that occurs twice": forged(b'{"t":%b,"t":%b}' % (entry, entry), one),
            "NaN in a tensor": forged(b'{"t":%b}' % entry, np.float32(np.nan).tobytes()),
        }.items():
            path.write_bytes(data)
            print(what)
            for read in (whole_by_fedfs, whole_by_library):
                print(f"  {read.__name__:18} {'accepted' if accepted(path, read) else 'refused'}")


if __name__ == "__main__":
    main()
