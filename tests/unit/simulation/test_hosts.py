"""Processes of hosts end with the simulation, however it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# Instead of fedfs: what ends at once, and what works for ever and tells its process.
STAND_IN = """#!/bin/sh
case "$*" in
*"site run"*|*aggregate*) echo $$ >>"$PIDS"; exec sleep 600;;
esac
"""
SIMULATE = """
import sys
sys.executable = sys.argv.pop(1)
from fedfs.simulation import experiment
experiment.open_study = lambda _: type("Observer", (), {"state": None})
experiment.participation.is_over = lambda *_: False
from fedfs.cli import main
main()
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
        (out / f"{arm}-2d-fold0-seed1" / site / "store" / "federation").mkdir(parents=True)
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
    assert process.returncode == 130, err
    assert "start the same command again to go on" in err
    assert not any(is_alive(int(pid)) for pid in started)
