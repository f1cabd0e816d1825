"""Processes of hosts end with the simulation, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedfs.simulation.hosts import all_results

# Instead of fedfs: what ends at once, and what works for ever and tells its process.
STAND_IN = """#!/bin/sh
case "$*" in
*"site run"*|*aggregate*) echo $$ >>"$PIDS"; exec sleep 600;;
esac
"""
SIMULATE = """
import sys
sys.executable = sys.argv.pop(1)
from fedfs.simulation import studies
studies.open_study = lambda _: type("Observer", (), {"state": None})
studies.participation.is_over = lambda *_: False
from fedfs.cli import main
main()
"""

# A site at work, which has yet to let go of what it holds.
SITE = """#!{python}
import os, pathlib, sys, time
from fedfs import cli
def work(**_):
    pathlib.Path({pids!r}).write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        pathlib.Path({pids!r}).write_text("released")
cli.fedfs.main = work
cli.main()
"""
START = """
import sys
from fedfs.simulation.hosts import Host
from pathlib import Path
sys.executable, folder = sys.argv[1:]
Host("north", Path(folder)).start("site", "run").wait()
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("arm", "n_processes"), [("local", 4), ("ffe", 3)])
def test_sigterm_ends_every_site_and_the_aggregator(tmp_path, arm, n_processes):
    data, out, pids = (tmp_path / name for name in ("data", "out", "pids"))
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    cases = [(f"c{i}", site) for i in range(9) for site in ("east", "north")]
    cases = [(f"{site}{case}", site) for case, site in cases]
    for case, _ in cases:
        (data / "imagesTr" / f"{case}_0000.nii.gz").touch()
        (data / "labelsTr" / f"{case}.nii.gz").touch()
    dataset = (
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}'
    )
    (data / "dataset.json").write_text(dataset)
    (data / "cases.csv").write_text("case,site\n" + "\n".join(map(",".join, cases)))
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    for site in ("east", "north", "study"):
        (out / f"{arm}-2d-fold0-seed1" / site / "store").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SIMULATE, str(stand_in), "simulate", str(out), "--data", str(data),
         "--arms", arm],
        env={**os.environ, "PIDS": str(pids)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while not pids.exists() or len(started := pids.read_text().split()) < n_processes:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, err
    assert "start the same command again to go on" in err
    assert not any(is_alive(int(pid)) for pid in started)


def test_a_site_ends_in_good_order_with_a_simulation_that_is_killed(tmp_path):
    pids, stand_in = tmp_path / "pids", tmp_path / "stand-in"
    stand_in.write_text(SITE.format(python=sys.executable, pids=str(pids)))
    stand_in.chmod(0o755)
    command = [sys.executable, "-c", START, str(stand_in), str(tmp_path)]
    with subprocess.Popen(command) as process:
        deadline_s = time.monotonic() + 60
        while not pids.exists() or not pids.read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        pid = int(pids.read_text())
        process.kill()
    while is_alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert pids.read_text() == "released"


class Asked(BaseException):
    """What a signal raises."""


def test_a_signal_that_does_not_interrupt_the_wait_is_heeded_all_the_same():
    may_end = threading.Event()

    def end(_number, _frame):
        raise Asked

    def act(_):
        time.sleep(0.5)  # until the other one waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # which does not wake it
        return may_end.wait(30)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        began_s = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(Asked):
                all_results(pool, act, [0])
            assert time.monotonic() - began_s < 20
            may_end.set()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_results_come_in_order_and_the_first_failure_ends_the_rest():
    made = []

    def act(number):
        made.append(number)
        if number == 2:
            raise ValueError("two")
        time.sleep(0.02)
        return number

    with ThreadPoolExecutor(2) as pool:
        assert all_results(pool, act, [4, 3, 5]) == [4, 3, 5]
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="two"):
        all_results(pool, act, [*range(100)])
    assert len(made) < 50
