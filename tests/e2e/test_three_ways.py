"""A bucket, a share behind a DMZ, and a stick: real nnU-Net, encrypted, the same model as online.

nnU-Net draws patches at random. Here each process begins with the same seeds, and both studies
start processes at the same moments of their course, so that the same work gives the same bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedfs.exchange.read import open_study
from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.hosts import LENIENT_POLICY, Host
from fedfs.store import open_store
from support import s3_server
from support.phantom_hosts import DATASET

pytestmark = [
    pytest.mark.nnunet,
    pytest.mark.xdist_group("three-ways"),
    pytest.mark.skipif(
        not os.environ.get("FEDFS_SLOW_TESTS"),
        reason="takes seven minutes: FEDFS_SLOW_TESTS=1; each way by itself is in tests/examples",
    ),
]

SITES = BUCKET, SHARE, STICK = ("east", "north", "south")
BUDGET = (
    "-c", "2d", "--fold", "all", "--rounds", "1", "--local-iterations", "2",
    "--val-iterations", "1", "--gpu-memory-target", "0.02",
    "--planner-option", "UNet_base_num_features=8", "--planner-option", "UNet_max_features_2d=16",
)  # fmt: skip
SEEDS = """
import random
random.seed(1)
try:
    import numpy, torch
    numpy.random.seed(1)
    torch.manual_seed(1)
except ImportError:
    pass
"""


class SeededHost(Host):
    """A host whose Python processes begin with the same seeds."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.folder / "seeds")}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    phantoms.write_dataset(folder, n_cases=dict.fromkeys(SITES, 2), seed=3)
    return folder


class Study:
    """A study of three sites; each reaches the hub in its own way, or all directly."""

    def __init__(self, folder: Path, images: Path, hub: str, *, online: bool) -> None:
        self.folder, self.hub, self.online, self.n_trips = folder, hub, online, 0
        self.store = dict.fromkeys(SITES, hub)
        if not online:
            self.store |= {site: str(folder / f"{site}-store") for site in (SHARE, STICK)}
        self.hosts = {
            name: SeededHost(name, folder / name).make() for name in ("coordinator", *SITES)
        }
        for name, host in self.hosts.items():
            (host.folder / "seeds").mkdir()
            (host.folder / "seeds" / "sitecustomize.py").write_text(SEEDS)
            host.write_policy(LENIENT_POLICY)
            if name in SITES:
                place_dataset(images, host.raw / DATASET, read_cases(images)[name])
        self.said: list[str] = []
        self.hosts["coordinator"].run(
            "init", hub, "--name", "three", "--dataset-json", str(images / "dataset.json"),
            "--min-sites", "3", *BUDGET, *(() if online else ("--encryption", "age")),
        )  # fmt: skip

    def once(self, name: str, *command: str, codes: tuple[int, ...] = (0, 10, 11)) -> int:
        host = self.hosts[name]
        done = subprocess.run(
            [sys.executable, "-m", "fedfs", *command],
            env=host.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=420,
        )
        self.said.append(f"{name}$ fedfs {' '.join(command)}\n{done.stdout}")
        assert done.returncode in codes, done.stderr
        return done.returncode

    def bring(self, direction: str) -> None:
        """Copy to or from the share; carry the stick there or back."""
        if self.online:
            return
        dmz = ("sync", self.hub, self.store[SHARE], "--site", SHARE)
        self.once("coordinator", *dmz)
        self.n_trips += 1
        file = str(self.folder / f"trip-{self.n_trips}")
        there = ("coordinator", self.hub), (STICK, self.store[STICK])
        (sender, source), (receiver, target) = there if direction == "for" else there[::-1]
        export = ("bundle", "export", source, f"--{direction}", STICK, "-o", file)
        if self.once(sender, *export) == 0:
            self.once(receiver, "bundle", "import", file, target)

    def join(self) -> None:
        self.bring("for")
        for site in SITES:
            self.once(site, "site", "join", self.store[site], "--site", site, "-d", DATASET)
        self.bring("from")
        self.once("coordinator", "approve", self.hub, "--all")

    def turn(self) -> bool:
        """Everybody works once; return whether the study is finished everywhere."""
        self.bring("for")
        for site in SITES:
            self.once(site, "site", "run", self.store[site], "--site", site, "-np", "1", "--once")
        self.bring("from")
        state = open_study(open_store(self.hub)).state
        if state.finished is None:
            self.once("coordinator", "aggregate", self.hub, "--once")
        return all((site, 1, "full") in state.evaluations for site in SITES)

    def run(self) -> None:
        self.join()
        for _ in range(6):
            if self.turn():
                return
        raise AssertionError("\n".join(self.said[-12:]))


def models(hub: str) -> dict[int, str]:
    state = open_study(open_store(hub)).state
    assert state.finished is not None
    assert not state.rejected
    assert {u.site for u in state.rounds[1].updates} == set(SITES)
    assert {site for site, _, variant in state.evaluations if variant == "full"} == set(SITES)
    return {version: model.weights_sha256 for version, model in state.models.items()}


def test_a_study_by_three_ways(tmp_path, images, request, monkeypatch):
    """And once more online: the models are the same, bit for bit."""
    hub = str(tmp_path / "hub")
    if not s3_server.missing_programs():
        ceph = request.getfixturevalue("ceph")
        for name, value in ceph.environment().items():
            monkeypatch.setenv(name, value)
        hub = f"s3://{ceph.make_bucket()}/studies/three"
    offline = Study(tmp_path / "offline", images, hub, online=False)
    offline.run()
    (tmp_path / "said.txt").write_text("\n".join(offline.said))
    made = models(hub)
    online = Study(tmp_path / "online", images, str(tmp_path / "online-hub"), online=True)
    online.run()
    assert made == models(online.hub)
    assert not list(offline.hosts[STICK].folder.glob("**/store"))
    seen = json.loads(offline.hosts["coordinator"].run("verify", hub, "--json"))
    assert seen["problems"] == 0
    assert [f["subject"] for f in seen["findings"] if "bit by bit" in f["text"]] == ["version 1"]
