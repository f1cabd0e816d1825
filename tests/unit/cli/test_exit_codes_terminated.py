"""SIGTERM, as systemd and SLURM send it: a process ends in good order, and forgets nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfs.protocol import layout
from fedfs.store import open_store
from support.federation import Federation

HOLDS_A_FOLDER = """
import sys, tempfile, time
from fedfs import cli
def work(**_):
    with tempfile.TemporaryDirectory(dir=sys.argv.pop()):
        try:
            time.sleep(60)
        finally:
            time.sleep(0.5)
cli.fedfs.main = work
cli.main()
"""


def until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def terminated(process: subprocess.Popen[str]) -> str:
    """Send SIGTERM; return what the process printed as errors."""
    for _ in range(2):  # as timeout(1) does
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    return err


def test_sigterm_releases_what_the_process_holds(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_FOLDER, str(tmp_path)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: list(tmp_path.iterdir()), process)
    assert "start the same command again to go on" in terminated(process)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hosts(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    return Federation(tmp_path / "hosts", store=store)


def aggregate(federation: Federation, store: Path, *more: str) -> subprocess.Popen[str]:
    home = federation.home("coordinator")
    command = [sys.executable, "-m", "fedfs", "aggregate", str(store), *more]
    return subprocess.Popen(
        [*command, "--work-dir", str(home / "work"), "--poll-interval", "0.1"], text=True,
        env={**os.environ, "FEDFS_HOME": str(home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_service_that_sigterm_ends_knows_the_newest_charter_and_notices_an_old_one(
    hosts, tmp_path
):
    hosts.join("north")
    hosts.approve()
    service = aggregate(hosts, tmp_path / "store")
    seen = hosts.keyring("coordinator").folder / "seen.json"
    until(seen.exists, service)
    hosts.join("south")
    hosts.approve()
    until(lambda: json.loads(seen.read_text())["charter_number"] == 3, service)
    terminated(service)
    hosts.store.delete(layout.charter(3))
    again = aggregate(hosts, tmp_path / "store", "--once")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 5
    assert "this host has seen charter 3 of it" in err
