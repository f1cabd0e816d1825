"""Studies of end-to-end tests: real hosts, and images that are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fedfs.exchange.read import open_study
from fedfs.protocol.track_place import parse_on_store
from fedfs.simulation.hosts import Host
from fedfs.store import open_store

DATASET = "Dataset007_Phantom"
N_CASES = {"east": 7, "north": 8}
BUDGET = (
    "-c", "2d", "--local-iterations", "2", "--val-iterations", "1", "--gpu-memory-target", "0.02",
    "--planner-option", "UNet_base_num_features=8", "--planner-option", "UNet_max_features_2d=16",
)  # fmt: skip


def begin(hosts: Mapping[str, Host], store: str, images: Path, *sites: str, rounds: int) -> None:
    """Begin a small study, and let sites join."""
    hosts["coordinator"].run(
        "init", store, "--name", "e2e", "--dataset-json", str(images / "dataset.json"),
        "--min-sites", str(len(sites)), "--rounds", str(rounds), *BUDGET,
    )  # fmt: skip
    for site in sites:
        hosts[site].run("site", "join", store, "--site", site, "--dataset", DATASET)
    hosts["coordinator"].run("approve", store, "--all")


def check_study(store: str, *, rounds: int, sites: list[str]) -> None:
    """Check that a study is complete, and that nothing was published twice."""
    state = open_study(open_store(store)).state
    assert sorted(state.models) == sorted(state.rounds) == list(range(rounds + 1))
    assert not state.rejected
    used = Counter((u.site, u.base_version) for r in state.rounds.values() for u in r.updates)
    assert used == Counter({(site, v): 1 for site in sites for v in range(rounds)})
    assert state.finished is not None
    names = [parse_on_store(e.key) for e in open_store(store).list("")]
    manifests = Counter(k.text for k in names if k is not None and k.kind in ("model", "update"))
    assert set(manifests.values()) == {1}
    for site in sites:
        assert (site, rounds, "full") in state.evaluations
