"""What cannot be taken back asks at a terminal, and takes ``--yes``."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import UserError
from fedfs.store import open_store
from support.federation import Federation

FINAL = {
    "remove": "remove {store} north",
    "close-round": "close-round {store}",
    "leave": "site leave {store} --site north",
    "rotate": "key rotate {store} --site north",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    store = open_store(str(folder / "store"), must_exist=False)
    return Federation(folder / "hosts", store=store).start()


@pytest.mark.parametrize("name", FINAL)
def test_without_a_terminal_it_says_that_yes_is_missing(study, name):
    done = CliRunner().invoke(cli, FINAL[name].format(store=study.store.url).split())
    assert isinstance(done.exception, UserError)
    assert done.exception.hint == "in a script, give --yes"
    assert "asks before it acts, and there is no terminal" in str(done.exception)


@pytest.mark.parametrize(
    ("answer", "code", "shown", "state"),
    [
        (b"\n", 1, "nothing was changed", "active"),
        (b"n\n", 1, "nothing was changed", "active"),
        (b"\x04", 130, "interrupted", "active"),  # the end of input
        (b"y\n", 0, "north: removed", "removed"),
    ],
)
def test_at_a_terminal_it_asks(study, answer, code, shown, state):
    parent, child = pty.openpty()
    words = FINAL["remove"].format(store=study.store.url).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "fedfs", *words], stdin=child, stdout=child, stderr=child,
        env={**os.environ, "FEDFS_HOME": str(study.home("coordinator"))},
    )  # fmt: skip
    os.close(child)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(parent, 1024)
    assert f"Remove north from the study at {study.store.url}?" in seen.decode()
    os.write(parent, answer)
    try:
        while piece := os.read(parent, 1024):
            seen += piece
    except OSError:
        pass  # the terminal is gone
    assert process.wait(timeout=60) == code
    assert shown in seen.decode()
    roster = {entry.site: entry.state for entry in study.observe().state.charter.roster}
    assert roster["north"] == state
