"""How much of a round is fedfs's own: everything that is not nnU-Net's work or waiting for others.

A site's share is what its loop spends outside the learner: listing, verifying, downloading,
hashing, writing, uploading. The aggregator's share is all it does between the last update and the
next version. Both are measured inside one run of a real federation of one site on made-up images,
with a network of the size of nnU-Net's default 2d one.

    python bench/overhead.py            # a table; three rounds, two minutes on two cores
    python bench/overhead.py --json     # for a machine
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases

DATASET = "Dataset001_Overhead"


class TimedLearner:
    """Passes everything on and adds up the seconds spent in nnU-Net."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if not callable(attribute):
            return attribute

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return attribute(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


# One story, told in order.
def measure(  # noqa: PLR0915
    folder: Path, *, rounds: int, iterations: int, features: int
) -> dict[str, Any]:
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ.update(nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1", FEDFS_HOME=str(folder / "home"))
    images = folder / "images"
    phantoms.write_dataset(images, n_cases={"north": 8}, seed=1)
    place_dataset(images, folder / "raw" / DATASET, read_cases(images)["north"])

    from fedfs.exchange.gate import OTHER_ROLES
    from fedfs.exchange.progress import StatusReporter
    from fedfs.exchange.publish import Publisher
    from fedfs.exchange.read import open_study
    from fedfs.nnunet.allowed.classes import versions
    from fedfs.nnunet.plan.planner import NnUNetPlanner
    from fedfs.nnunet.system.environment import HostSettings, from_environment
    from fedfs.roles.aggregator.step import Aggregator
    from fedfs.roles.coordinator.amend import Coordinator
    from fedfs.roles.coordinator.begin import init_study
    from fedfs.roles.coordinator.options import StudyOptions
    from fedfs.roles.coordinator.roster import approve_sites
    from fedfs.roles.site.join import join_study
    from fedfs.roles.site.policy.file import NO_FILE
    from fedfs.roles.site.policy.gate import SiteGate
    from fedfs.roles.site.step import Site
    from fedfs.roles.site.training import make_learner
    from fedfs.store import open_store
    from fedfs.store.prefix import TrackStore
    from fedfs.trust.keyring import Keyring

    store, home = open_store(str(folder / "store"), must_exist=False), folder / "home"
    options = StudyOptions(
        name="overhead",
        dataset_json=phantoms.DATASET_JSON,
        configuration="2d",
        rounds=rounds,
        local_iterations=iterations,
        val_iterations=5,
        min_sites=1,
        gpu_memory_target_gb=0.02,
        planner_options={"UNet_base_num_features": features},
    )
    charter = init_study(store, home, options, clock=time.time, versions=versions())
    keyring = Keyring(home, charter.study)
    key = keyring.create("site-north")
    seen = open_study(store, site="north", skip=("status", "aggregator-status"))
    publisher = Publisher(
        TrackStore(store, seen.track),
        key,
        charter.study,
        clock=time.time,
        track=seen.track,
        gate=SiteGate(NO_FILE, "north", lambda: seen.state),
    )
    learner = TimedLearner(
        make_learner(
            seen.state.charter,
            "north",
            DATASET,
            from_environment(os.environ),
            host=HostSettings(num_processes=1),
        )
    )
    join_study(open_study(store, site="north"), publisher, "north", learner, difference=[])
    approve_sites(Coordinator(store, home, clock=time.time), None)

    work = folder / "work"
    work.mkdir()
    site = Site(
        "north",
        observer=seen,
        publisher=publisher,
        status=StatusReporter(publisher, "north", interval_s=15, clock=time.time),
        learner=learner,
        folder=work,
    )
    all_seen = open_study(store, skip=("status", "aggregator-status"))
    aggregating = Publisher(
        TrackStore(store, all_seen.track), keyring.load("aggregator"), charter.study,
        clock=time.time, track=all_seen.track, gate=OTHER_ROLES,
    )  # fmt: skip
    aggregator = Aggregator(
        observer=all_seen,
        publisher=aggregating,
        status=StatusReporter(aggregating, "", interval_s=15, clock=time.time),
        planner=NnUNetPlanner(folder / "plan"),
        folder=folder / "cache",
        clock=time.time,
    )

    def everything(step: Any) -> float:
        began = time.perf_counter()
        while step().worked:
            pass
        return time.perf_counter() - began

    everything(site.step)  # fingerprint
    everything(aggregator.step)  # plan, version 0
    rows = []
    for number in range(1, rounds + 1):
        before = learner.seconds
        site_s = everything(site.step)
        nnunet_s = learner.seconds - before
        aggregator_s = everything(aggregator.step)
        round_s = site_s + aggregator_s
        rows.append(
            {
                "round": number,
                "seconds": round(round_s, 2),
                "nnunet_s": round(nnunet_s, 2),
                "site_s": round(site_s - nnunet_s, 3),
                "aggregator_s": round(aggregator_s, 3),
                "share": round((round_s - nnunet_s) / round_s, 5),
            }
        )
    learner.close()
    state = open_study(store).state
    size = state.models[state.newest].payload.size
    # The first round holds the imports of nnunetv2 and preprocessing: not a round like the others.
    total = sum(row["seconds"] for row in rows[1:])
    own = sum(row["site_s"] + row["aggregator_s"] for row in rows[1:])
    return {"model_bytes": size, "rounds": rows, "share": round(own / total, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--iterations", type=int, default=250, help="per round; nnU-Net's epoch has 250"
    )
    parser.add_argument("--features", type=int, default=32, help="UNet_base_num_features")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            Path(folder),
            rounds=options.rounds,
            iterations=options.iterations,
            features=options.features,
        )
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"model: {result['model_bytes'] / 1e6:.1f} MB, one site")
    print(f"{'round':>5} {'seconds':>8} {'nnU-Net':>8} {'site':>7} {'aggregator':>11} {'share':>7}")
    for row in result["rounds"]:
        print(
            f"{row['round']:>5} {row['seconds']:>8.2f} {row['nnunet_s']:>8.2f} "
            f"{row['site_s']:>7.3f} {row['aggregator_s']:>11.3f} {row['share']:>7.2%}"
        )
    print(f"fedfs's own share, first round left out: {result['share']:.2%}")


if __name__ == "__main__":
    sys.exit(main())
