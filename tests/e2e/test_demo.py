"""``fedfs demo``: the first command that anybody runs, here with the shortest training there is.

It takes a minute of processor time: seven models of real processes, which nothing else makes. That
it goes on after Ctrl-C takes half a minute more, with ``FEDFS_SLOW_TESTS=1``.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedfs.exchange.read import open_study
from fedfs.store import open_store
from support.slow import slow

pytestmark = pytest.mark.nnunet

LAST_LINE = re.compile(
    r"demo: sites=3 rounds=1 dice_local=(\S+) dice_federated=(\S+) dice_personal=(\S+) "
    r"model=(\S+) report=(\S+)"
)


def interrupt(command, place):
    """Press Ctrl-C when the study is there."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stopped:
        while not (place / "store" / "federation").exists():
            assert stopped.poll() is None
            time.sleep(0.1)
        stopped.send_signal(signal.SIGINT)
        _, err = stopped.communicate(timeout=300)
    assert stopped.returncode == 130
    assert "start the same command again to go on" in err


@pytest.mark.parametrize(
    "interrupted", [False, pytest.param(True, marks=slow)], ids=["at once", "after Ctrl-C"]
)
def test_the_demo_ends_with_a_table_pictures_and_three_commands(tmp_path, interrupted):
    place = tmp_path / "demo"
    command = [
        sys.executable, "-m", "fedfs", "demo", "--folder", str(place), "--rounds", "1",
        "--local-iterations", "1", "--device", "cpu",
    ]  # fmt: skip
    if interrupted:
        interrupt(command, place)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    found = LAST_LINE.fullmatch(last)
    assert found
    dice_local, dice_federated, dice_personal, model, report = found.groups()
    assert all(0 <= float(dice) <= 1 for dice in (dice_local, dice_federated, dice_personal))
    assert (Path(model) / "fold_0" / "checkpoint_final.pth").is_file()

    rows = {words[0]: words[1:] for line in lines if (words := line.split())}
    assert {"east", "north", "south", "mean"} <= rows.keys()
    assert rows["iterations"] == ["2", "1", "2"] * 2
    commands = [line.split() for line in lines if line.startswith("  ") and str(place) in line]
    assert [words[1] for words in commands] == ["privacy", "report", "nnUNetv2_predict"]
    for words in commands[:2]:  # the third is nnU-Net's, and takes a while
        command = [sys.executable, "-m", *words]
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert shown.returncode == 0, shown.stderr

    html = Path(report).read_text(encoding="utf-8")
    assert all(dice in html for dice in rows["mean"])
    assert "no patient is shown" in html
    state = open_study(open_store(str(place / "store"))).state
    assert {variant for _, _, variant in state.evaluations} == {"pseudo", "full", "local"}
    assert {score.budget for score in state.evaluations.values()} == {1.0, 2.0}
