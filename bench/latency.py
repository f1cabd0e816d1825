"""How long after the last update that a round needs is the new version visible?

    python bench/latency.py                          # a folder
    python bench/latency.py --store s3://bucket/x    # a bucket (AWS variables say where)

Beside it the time that reading the updates and writing the version once takes on the same store, in
the same run: what is more is fedfs's own (noticing, checking, averaging, deciding).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fedfs.protocol import layout
from fedfs.roles.loop import run
from fedfs.roles.polling import Waiter, WaitSettings
from fedfs.store import open_store
from support import federation as fake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="default: a temporary folder")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=31.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    values = int(options.megabytes * 1e6 / 4 / 16)
    rng = np.random.default_rng(0)
    fake.INITIAL.clear()
    fake.INITIAL.update(
        {f"t{i:02d}": rng.normal(size=values).astype(np.float32) for i in range(16)}
    )
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(options.store or f"{folder}/store", must_exist=False)
        targets = {f"site-{i}": float(i) for i in range(options.sites)}
        study = fake.Federation(
            Path(folder) / "hosts", targets=targets, store=store, rounds=options.rounds + 1
        )
        study.start()
        for name in (*targets, "aggregator"):
            study.run_process(name)
        waited, bound = [], []
        for version in range(1, options.rounds + 1):
            *early, last = targets
            for name in early:
                study.run_process(name)
            study.run_process("aggregator")  # has fetched what is there, as it would have
            shown = threading.Event()
            at: dict[str, float] = {}
            site = study.process(last)
            while site._prepared is False or (last, version - 1, "pseudo") not in (
                study.observe().state.evaluations
            ):
                site.step()
            aggregator = study.process("aggregator")

            def close(target=version, aggregator=aggregator, shown=shown, at=at) -> None:
                def step():
                    outcome = aggregator.step()
                    if aggregator._observer.state.newest >= target:
                        at["visible"] = time.perf_counter()
                        shown.set()
                        return type(outcome)(worked=False, finished=True, text="")
                    return outcome

                with Waiter(store.watch_path(), WaitSettings(), rng=random.Random(0)) as waiter:
                    run(step, wait=waiter.wait, reset=waiter.reset)

            thread = threading.Thread(target=close)
            thread.start()
            time.sleep(1.0)  # it waits by now
            site.step()
            published = time.perf_counter()
            shown.wait()
            thread.join()
            waited.append(at["visible"] - published)
            bound.append(once(study, version, Path(folder)))
        ratio = [w / b for w, b in zip(waited, bound, strict=True)]
        result = {
            "store": store.url.split(":")[0],
            "sites": options.sites,
            "megabytes": options.megabytes,
            "seconds": [round(w, 3) for w in waited],
            "read_last_and_write_seconds": [round(b, 3) for b in bound],
            "ratio_median": round(sorted(ratio)[len(ratio) // 2], 2),
        }
        print(json.dumps(result, indent=1))


def once(study, version: int, folder: Path) -> float:
    """Seconds for reading the last update and writing a version of the same size."""
    state = study.observe().state
    key = state.updates[max(study.targets), version - 1].payload.key
    began = time.perf_counter()
    study.place.download(key, folder / "copy", max_bytes=1 << 40)
    study.place.upload(layout.model_payload(99999, f"{version:064d}"), folder / "copy")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
