"""Many sites, many versions: what a step and a poll cost, with a learner that costs nothing.

    python bench/scale.py --sites 200 --versions 50

Prints, for the given number of sites and a quarter of it: seconds that the aggregator's process
spends per version and site, the slowest step per site, and objects listed per poll early and late.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import federation as fake


def measure(n_sites: int, n_versions: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        targets = {f"s{i:04d}": float(i % 7) for i in range(n_sites)}
        study = fake.Federation(Path(folder), targets=targets, rounds=n_versions).start()
        listed = [0]
        original = study.store.list

        def counting(prefix, *, after=""):
            for entry in original(prefix, after=after):
                listed[0] += 1
                yield entry

        study.store.list = counting
        spent, slowest, polls = 0.0, 0.0, {}
        for version in range(n_versions + 1):
            for name in targets:
                study.run_process(name)
            worked = True
            while worked:
                began = time.perf_counter()
                worked = study.step("aggregator").worked
                took = time.perf_counter() - began
                spent, slowest = spent + took, max(slowest, took if version > 1 else 0.0)
            listed[0] = 0
            study.step("aggregator")
            polls[version] = listed[0]
            listed[0] = 0
            study.step(next(iter(targets)))
        late = max(2, n_versions - 2)
        return {
            "sites": n_sites,
            "versions": n_versions,
            "aggregator_ms_per_version_and_site": 1e3 * spent / n_versions / n_sites,
            "slowest_step_ms_per_site": 1e3 * slowest / n_sites,
            "listed_per_poll_early": polls[3],
            "listed_per_poll_late": polls[late],
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
