"""The helper's process needs little: it runs where nnU-Net and PyTorch cannot be imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedfs.protocol import layout
from fedfs.store.folder import FolderStore
from support.federation import HELPER, Federation

ROOT = Path(__file__).parents[4]
REQUIREMENTS = ROOT / "deploy" / "helper" / "requirements.txt"
TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Block())
from fedfs.cli import main
main()
"""


def needed() -> dict[str, str]:
    """Package -> line of it, in the helper's list."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line[:1] not in ("#", "")]
    return {re.split("[<>=]", line)[0]: line for line in lines}


def all_of_fedfs() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split("[<>=]", line)[0]: line for line in project["dependencies"]}


def fedfs(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the helper's host, which has nothing but what its list names."""
    blocked = {*all_of_fedfs().keys() - needed().keys(), "batchgenerators", "SimpleITK", "sklearn"}
    blocked |= {"s3fs", "fsspec"}  # for a study in a bucket
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked), *words],
        env={**os.environ, "FEDFS_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_list_of_the_helper_says_what_fedfs_says():
    known = all_of_fedfs()
    assert {"nnunetv2", "torch", "scipy", "safetensors"} <= known.keys() - needed().keys()
    for package, line in needed().items():
        assert known[package] == line


@pytest.fixture
def study(tmp_path):
    (tmp_path / "store").mkdir()
    store = FolderStore(tmp_path / "store")
    federation = Federation(
        tmp_path, store=store, targets=TARGETS, secure_sums=True, encryption="age", rounds=1
    )  # fmt: skip
    federation.join()
    federation.approve()
    return federation


def test_a_helper_joins_and_helps_without_nnunet_and_torch(study, tmp_path):
    home, store = study.home(HELPER), str(tmp_path / "store")
    joined = fedfs(home, "helper", "join", store)
    assert joined.returncode == 0, joined.stderr
    assert "fedfs helper approve" in joined.stdout
    study.approve_helper()
    for name in (*TARGETS, "aggregator", *TARGETS, "aggregator"):
        study.run_process(name)
    helped = fedfs(home, "helper", "run", store, "--once")
    assert helped.returncode == 0, helped.stderr
    assert "published the sum of the masks of 3 updates for version 1" in helped.stderr
    assert layout.mask_sum(1) in study.observe().state.digests
    again = fedfs(home, "helper", "run", store, "--once", "--json")
    assert "ask for the sum of version 2" in again.stdout
