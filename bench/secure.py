"""Costs of secure sums: processor time, memory, bytes and trips of site, helper and aggregator.

For nnU-Net's default 3d_fullres net (31 million parameters) and updates of several sites, as
``fixed`` and as ``randk``. Each role is a process of its own with one thread, which does what it
does in a study, from arrays and files to files:

 * site: encode the trained weights, write, mask and encrypt them; as ``fp32`` without masks for
   comparison;
 * helper: decrypt the seeds, write the sum of the masks and encrypt it; per site;
 * aggregator: decrypt masked updates and mask sum, write the sum; per site.

Seconds are those of the processor, user and system. Memory is what the process grew by from its
first step on. Bytes are those that a site uploads, and what the helper publishes per round. A trip
is a file that somebody has to wait for before the next can be written.

    python bench/secure.py                   # a table, a minute
    python bench/secure.py --json            # for a machine
    python bench/secure.py --flower /path/to/python     # with Flower's SecAgg+ beside it

For the last, that Python has ``flwr`` and runs ``bench/secure_flower.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from alignment import default_net

from fedfs.aggregation.secure_sums import (
    MaskPart,
    coefficients,
    level_shapes,
    mask_file,
    write_mask_sum,
    write_sum,
)
from fedfs.exchange.payloads import write_update
from fedfs.tensors import encodings
from fedfs.trust import sealing
from fedfs.trust.masks import SEED_BYTES, MaskContext
from fedfs.trust.sealing import Identity

ENCODINGS: dict[str, dict[str, float]] = {"fp32": {}, "fixed": {}, "randk": {"fraction": 0.05}}
TRIPS = 3
"""Masked update, mask sum, version."""

AGGREGATOR, HELPER = Identity.generate(), Identity.generate()


class Meter:
    """Seconds of the processor per step, and the memory that this process grew by."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = _peak_mb()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what is inside."""
        began_s = time.process_time()
        yield
        self.seconds[name] = time.process_time() - began_s

    def result(self) -> dict[str, Any]:
        """Return what was counted."""
        steps = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        total = round(sum(self.seconds.values()), 3)
        return {"steps": steps, "seconds": total, "memory_mb": round(_peak_mb() - self._before)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def context(number: int) -> MaskContext:
    return MaskContext(study="bench", track="", version=1, site=f"site{number}")


def seed(number: int) -> bytes:
    return number.to_bytes(SEED_BYTES, "little")


def seal(source: Path, identity: str) -> int:
    target = source.with_suffix(".age")
    with source.open("rb") as reader, target.open("wb") as writer:
        sealing.seal_file(reader, writer, [identity])
    return target.stat().st_size


def unseal(source: Path, identity: Identity) -> Path:
    target = source.with_suffix(".open")
    with source.with_suffix(".age").open("rb") as reader, target.open("wb") as writer:
        sealing.unseal_file(reader, writer, [identity])
    return target


def site(folder: Path, name: str, number: int, recipient: str) -> dict[str, Any]:
    """Publish an update."""
    rng = np.random.default_rng(number)
    shapes = default_net(6)
    base = {n: np.full(shape, 0.02, np.float32) for n, shape in shapes.items()}
    trained = {}
    for n, shape in shapes.items():
        delta = rng.standard_normal(shape, np.float32)
        delta *= np.float32(1e-3)
        trained[n] = base[n] + delta
    encoding, meter = encodings.by_name(name, ENCODINGS[name]), Meter()
    plain, out = folder / f"{number}.plain", folder / f"{number}.update"
    with meter.step("encode and write"):
        write_update(plain, encoding, trained, base, {})
    if encoding.summable:
        with meter.step("mask"):
            mask_file(plain, out, seed(number), context(number))
        plain.unlink()
    else:
        plain.replace(out)
    with meter.step("encrypt"):
        up_bytes = seal(out, recipient)
    out.unlink()
    return {**meter.result(), "up_bytes": up_bytes}


def helper(folder: Path, name: str, n_sites: int, recipient: str) -> dict[str, Any]:
    """Sum the masks."""
    counts = coefficients({f"site{i}": float(i + 1) for i in range(n_sites)})
    shapes = level_shapes(encodings.by_name(name, ENCODINGS[name]), default_net(6))
    sealed = [sealing.seal(seed(i), [HELPER.recipient]) for i in range(n_sites)]
    meter, out = Meter(), folder / "masks"
    with meter.step("decrypt seeds"):
        seeds = [sealing.unseal(data, [HELPER]) for data in sealed]
    parts = [
        MaskPart(site=f"site{i}", seed=seeds[i], context=context(i), coefficient=counts[f"site{i}"])
        for i in range(n_sites)
    ]
    with meter.step("sum masks"):
        write_mask_sum(out, shapes, parts)
    with meter.step("encrypt"):
        n_bytes = seal(out, recipient)
    return {**meter.result(), "bytes": n_bytes}


def aggregator(folder: Path, n_sites: int, secret: bytes) -> dict[str, Any]:
    """Take the masks from the sum."""
    counts = coefficients({f"site{i}": float(i + 1) for i in range(n_sites)})
    identity, meter = Identity.from_text(secret), Meter()
    with meter.step("decrypt"):
        paths = {f"site{i}": unseal(folder / f"{i}.update", identity) for i in range(n_sites)}
    with meter.step("decrypt mask sum"):
        masks = unseal(folder / "masks", identity)
    with meter.step("sum"):
        write_sum(folder / "sum", paths, counts, masks)
    return meter.result()


def measure(name: str, n_sites: int) -> dict[str, Any]:
    """Run one round."""
    with tempfile.TemporaryDirectory() as text:
        folder, to = Path(text), AGGREGATOR.recipient
        sites = [_apart(site, folder, name, i, to) for i in range(n_sites if name != "fp32" else 1)]
        found = {"encoding": name, "site": min(sites, key=lambda item: item["seconds"])}
        if name != "fp32":
            found["helper"] = _apart(helper, folder, name, n_sites, to)
            secret = AGGREGATOR.to_text()
            found["aggregator"] = _apart(aggregator, folder, n_sites, secret)
    return found


def _apart(role: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a role in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(role, arguments)


def flower(python: str, n_values: int, n_sites: int) -> dict[str, Any]:
    """Run SecAgg+ of Flower, all sites there, and one gone after it shared its keys."""
    script = str(Path(__file__).with_name("secure_flower.py"))
    command = [python, script, "--values", str(n_values), "--sites", str(n_sites)]
    out: dict[str, Any] = {}
    for dropped in (0, 1):
        run = subprocess.run(
            [*command, "--dropped", str(dropped)], check=True, capture_output=True, text=True
        )
        out[f"dropped {dropped}"] = json.loads(run.stdout.splitlines()[-1])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--flower", metavar="PYTHON")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    n_values = sum(math.prod(shape) for shape in default_net(6).values())
    result: dict[str, Any] = {
        "n_parameters": n_values,
        "n_sites": options.sites,
        "trips": TRIPS,
        "rows": [measure(name, options.sites) for name in ENCODINGS],
    }
    if options.flower:
        result["flower"] = flower(options.flower, n_values, options.sites)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{n_values:,} parameters, {options.sites} sites, {TRIPS} trips per round")
    for row in result["rows"]:
        for role, n in (("site", 1), ("helper", options.sites), ("aggregator", options.sites)):
            if role in row:
                _print(f"{row['encoding']:6} {role}", row[role], n)
    for name, found in result.get("flower", {}).items():
        print(
            f"SecAgg+ of Flower {found['version']}, {name}: site {found['site_s']:.2f} s, "
            f"server {found['server_s'] / options.sites:.2f} s per site, up "
            f"{found['up_bytes'] / 1e6:.1f} MB, {found['trips']} trips"
        )


def _print(title: str, found: dict[str, Any], n: int) -> None:
    steps = ", ".join(f"{name} {seconds / n:.2f}" for name, seconds in found["steps"].items())
    size = found.get("up_bytes", found.get("bytes"))
    print(
        f"{title:18} {found['seconds'] / n:6.2f} s per site ({steps}), +{found['memory_mb']} MB"
        + (f", {size / 1e6:.1f} MB" if size else "")
    )


if __name__ == "__main__":
    sys.exit(main())
