"""Many sites, many versions: what a step and a poll cost, with a learner that costs nothing.

    python bench/scale.py --sites 200 --versions 50

Prints, for the given number of sites and a quarter of it: milliseconds of the aggregator's process
per version and site; the slowest step of the first and of the last versions, per site; and objects
listed per poll, early and late. "No step slower than linear" means that the numbers per site are no
larger for all sites than for a quarter; "polls do not grow" that late is as early.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fedfs.store.base import Entry
from fedfs.store.memory import IndexedMemoryStore
from support import federation as fake

N_CASES = 10
"""Of each site."""


class CountingStore(IndexedMemoryStore):
    """Counts what it lists."""

    def __init__(self) -> None:
        super().__init__()
        self.n_listed = 0

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        for entry in super().list(prefix, after=after):
            self.n_listed += 1
            yield entry


def measure(n_sites: int, n_versions: int) -> dict[str, float]:
    """Run a federation; return what it cost."""
    targets = {f"s{i:04d}": float(i % 7) for i in range(n_sites)}
    store = CountingStore()
    spent_s, slowest_s, listed = 0.0, [], []
    with tempfile.TemporaryDirectory() as folder:
        study = fake.Federation(Path(folder), targets=targets, rounds=n_versions, store=store)
        study.learners = {n: fake.FakeLearner(t, N_CASES) for n, t in targets.items()}
        study.start()
        for _ in track(range(n_versions + 1), f"{n_sites} sites"):
            for name in targets:
                study.run_process(name)
            slowest_s.append(0.0)
            worked = True
            while worked:
                began_s = time.perf_counter()
                worked = study.step("aggregator").worked
                took_s = time.perf_counter() - began_s
                spent_s, slowest_s[-1] = spent_s + took_s, max(slowest_s[-1], took_s)
            store.n_listed = 0
            study.step("aggregator")
            listed.append(store.n_listed)
        assert study.observe().state.newest == n_versions
    return {
        "sites": n_sites,
        "versions": n_versions,
        "aggregator_ms_per_version_and_site": 1e3 * spent_s / n_versions / n_sites,
        "slowest_step_early_ms_per_site": 1e3 * max(slowest_s[1:6]) / n_sites,
        "slowest_step_late_ms_per_site": 1e3 * max(slowest_s[-6:-1]) / n_sites,
        "listed_per_poll_early": listed[3],
        "listed_per_poll_late": listed[-3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--versions", type=int, default=50)
    options = parser.parse_args()
    small = measure(max(2, options.sites // 4), options.versions)
    large = measure(options.sites, options.versions)
    print(json.dumps({"quarter": small, "full": large}, indent=1))


if __name__ == "__main__":
    main()
