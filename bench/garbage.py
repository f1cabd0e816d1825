"""A flood of garbage beside a study: what `fedfs status` and an aggregator's look cost with it.

    python bench/garbage.py                # 1,000 objects of 1 MB beside a study of 8 sites
    python bench/garbage.py --json         # for a machine

Half of the objects are no JSON, half are envelopes of a signer whom nobody knows. They lie beside
the study, as joins and updates of strangers, or (`--inside`) where updates of its sites are
expected, which only whoever may write there can do. For each of `status`
and the aggregator a process looks once, and then many times while the study goes on: each look
follows a new status. The median of these looks, and the peak of memory that Python takes for them,
are shown without garbage and with it; and the first look, which reads each object once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fedfs.exchange.read import open_study
from fedfs.protocol import layout, messages
from fedfs.roles.reader.status import summarize
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.trust.signing import SigningKey
from support import federation as fake
from support.forgery import sign_payload

N_SITES, N_VERSIONS, N_LOOKS = 8, 5, 20


def flood(study: fake.Federation, n_objects: int, n_bytes: int, *, inside: bool) -> None:
    """Put garbage where readers look."""
    signer, sites = SigningKey.generate(), sorted(study.targets)
    place = study.place.track.on_store
    payload = b'{"a":"' + b"x" * (n_bytes * 3 // 4) + b'"}'
    envelope = sign_payload(signer, messages.UpdateManifest, payload)
    for i in range(n_objects):
        outside = (
            layout.join(f"stranger-{i // 9000}", i % 9000 + 1),
            place(layout.update(f"stranger-{i}", 0)),
        )
        within = place(layout.update(sites[i % len(sites)], N_VERSIONS + 1 + i))
        key = within if inside else outside[i % 4 // 2]
        study.store.create(key, envelope if i % 2 else os.urandom(n_bytes))


def looks_of(look: Callable[[], object], change: Callable[[], None]) -> dict[str, float]:
    """Measure looks that each find something new."""
    seconds, peaks = [], []
    for _ in range(N_LOOKS):
        change()
        began_s = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began_s)
    tracemalloc.start()
    for _ in range(5):
        change()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        look()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return {"ms": statistics.median(seconds) * 1e3, "kB": statistics.median(peaks) / 1e3}


def measure(
    folder: Path, n_objects: int, n_bytes: int, *, inside: bool
) -> dict[str, dict[str, float]]:
    """Run a study, put garbage beside it, and look."""
    store: Store = open_store(str(folder / "store"), must_exist=False)
    targets = {f"site-{i}": float(i) for i in range(N_SITES)}
    study = fake.Federation(folder / "hosts", targets=targets, rounds=N_VERSIONS + 1, store=store)
    study.start()
    while study.observe().state.newest < N_VERSIONS:
        for name in (*targets, "aggregator"):
            study.run_process(name)
    for site in sorted(targets)[1:]:  # the first is waited for
        study.run_process(site)
    flood(study, n_objects, n_bytes, inside=inside)
    publisher = study.publisher("site-site-1", "site-1")

    numbers = itertools.count(1000)

    def change() -> None:
        number = next(numbers)
        publisher.publish(
            messages.StatusMessage(
                key=layout.status("site-1", number), site="site-1", step="train",
                version=N_VERSIONS, done=number, total=10_000, unit="iterations", eta_s=None,
                waiting_for="", error="",
            )
        )  # fmt: skip
        publisher.store.delete(layout.status("site-1", number - 1))

    out = {}
    statuses = layout.STATUS_KINDS
    for name, options in (
        ("status", {"scores": True}),
        ("aggregator", {"skip": (*statuses, "join", "evaluation", "failure")}),
    ):
        began_s = time.perf_counter()
        observer = open_study(store, **options)  # type: ignore[arg-type]
        first_s = time.perf_counter() - began_s

        def look(observer: Any = observer, name: str = name) -> None:
            observer.refresh()
            if name == "status":
                summarize(observer.state, observer.sizes)

        def look_everywhere(observer: Any = observer) -> None:
            observer.refresh(everything=True)

        out[name] = {
            **looks_of(look, change),
            "first_s": first_s,
            "everything_ms": looks_of(look_everywhere, change)["ms"],
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--inside", action="store_true", help="in the folders of the study's sites")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = {}
    for n_objects in (0, options.objects):
        with tempfile.TemporaryDirectory() as folder:
            results[n_objects] = measure(
                Path(folder), n_objects, options.bytes, inside=options.inside
            )
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{options.objects} objects of {options.bytes / 1e6:g} MB beside {N_SITES} sites")
    print(f"{'':<12} {'look, ms':>18} {'memory, kB':>18} {'all, ms':>18} {'first, s':>14}")
    for name, without in results[0].items():
        with_it = results[options.objects][name]
        cells = [
            f"{without[key]:.1f} -> {with_it[key]:.1f} ({with_it[key] / without[key]:.2f})"
            for key in ("ms", "kB", "everything_ms")
        ]
        first = f"{without['first_s']:.2f} -> {with_it['first_s']:.1f}"
        print(f"{name:<12} " + " ".join(f"{cell:>18}" for cell in cells) + f" {first:>14}")


if __name__ == "__main__":
    sys.exit(main())
