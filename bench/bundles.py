"""Export and import of bundles beside a copy of the same bytes.

    python bench/bundles.py --megabytes 512 --repeats 5

A study of one update in a folder is exported and imported, in the open and encrypted. A copy reads
the same file, writes it and waits for the disk. Prints best times in MB/s, the ratios, and the
bundle's size beside what is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np

from fedfs.roles.courier.incoming import import_bundle
from fedfs.roles.courier.outgoing import export_bundle
from fedfs.store import open_store
from support import federation as fake

SITE = "north"


def copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def measure(folder: Path, megabytes: float, repeats: int) -> dict[str, float]:
    n_values = int(megabytes * 1e6 / 4)
    rng = np.random.default_rng(0)
    fake.INITIAL = {"a.weight": rng.normal(size=n_values).astype(np.float32)}
    hub = open_store(str(folder / "hub"), must_exist=False)
    study = fake.Federation(folder / "hosts", targets={SITE: 1.0}, rounds=1, store=hub).start()
    for name in (SITE, "aggregator", SITE):
        study.run_process(name)
    payload = next((folder / "hub").rglob("update-*.safetensors"))
    clock, quiet = study.clock, lambda _: None
    homes = {"from": study.home(SITE), "for": study.home("coordinator")}
    best: dict[str, float] = {}

    def timed(name: str, function, *arguments, **options):
        began_s = time.perf_counter()
        out = function(*arguments, **options)
        took_s = time.perf_counter() - began_s
        best[name] = min(best.get(name, took_s), took_s)
        return out

    sizes = {}
    for _ in range(repeats):
        timed("copy", copy, payload, folder / "copied")
        for kind, recipients in (("plain", ()), ("sealed", None)):
            path = folder / "bundle"
            made = timed(
                f"export {kind}", export_bundle, hub, path, SITE, "from", home=homes["from"],
                clock=clock, on_progress=quiet, recipients=recipients, everything=True,
            )  # fmt: skip
            sizes[kind] = path.stat().st_size / made.n_bytes - 1
            target = open_store(str(folder / "target"), must_exist=False)
            for key in ("federation", "aggregator", f"tracks/{study.tracks[0]}/aggregator"):
                shutil.copytree(folder / "hub" / key, folder / "target" / key)
            timed(
                f"import {kind}", import_bundle, path, target, home=homes["for"], on_progress=quiet
            )
            shutil.rmtree(folder / "target")
            path.unlink()
    speed = payload.stat().st_size / 1e6
    return {
        "megabytes": round(speed, 1),
        **{f"{name} MB/s": round(speed / s) for name, s in best.items()},
        **{f"{n} / copy": round(best["copy"] / s, 3) for n, s in best.items() if n != "copy"},
        **{f"overhead {kind} %": round(100 * share, 3) for kind, share in sizes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=512.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options.megabytes, options.repeats), indent=1))


if __name__ == "__main__":
    main()
