"""Each file of ``deploy/`` says what this version of fedfs understands, and does what it says."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from fedfs.errors import EXIT_NOTHING, EXIT_WAITING
from support.command_lines import understood

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
CODES = f"{EXIT_WAITING} {EXIT_NOTHING}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What fedfs.env says of the store; the site is in each command."""
    monkeypatch.setenv("FEDFS_STORE", "/store")


def unit_of(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(path.read_text())
    return parser


def variables() -> dict[str, str]:
    lines = (DEPLOY / "fedfs.env.example").read_text().splitlines()
    pairs = [re.fullmatch(r"(?:# )?([A-Za-z_]+)=(\S+)", line) for line in lines]
    return {pair[1]: pair[2] for pair in pairs if pair}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_runs_a_command_that_fedfs_understands(path):
    service = unit_of(path)["Service"]
    program, *words = shlex.split(service["ExecStart"].replace("%i", "north"))
    assert program.endswith("/fedfs")
    params = understood(words)
    assert params["store"] == "/store"
    is_once = "once" in path.name
    assert params["once"] is is_once
    assert service.get("SuccessExitStatus") == (CODES if is_once else None)
    assert service["User"] == "fedfs"
    assert service["NoNewPrivileges"] == "yes"
    if not is_once:  # however often the store is away, the service comes back
        assert unit_of(path)["Unit"]["StartLimitIntervalSec"] == "0"
        assert service["Restart"] == "on-failure"
    if "site" in path.name:
        assert "PrivateDevices" not in service  # it would hide the GPU


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_whole(path):
    unit = unit_of(path)
    assert unit["Unit"]["Description"]
    if path.suffix == ".timer":
        assert path.with_suffix(".service").exists()
        assert unit["Timer"].keys() >= {"OnBootSec", "OnUnitInactiveSec"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd on this machine")
def test_systemd_takes_the_units(tmp_path):
    for path in UNITS:
        text = path.read_text().replace("/opt/fedfs/bin/fedfs", "/bin/true")
        (tmp_path / path.name).write_text(re.sub(r"(?m)^User=.*$", "", text))
    names = [str(tmp_path / path.name.replace("@", "@north")) for path in UNITS]
    command = ["systemd-analyze", "verify", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lines_for_cron_are_understood():
    text = (DEPLOY / "cron" / "fedfs.crontab").read_text()
    lines = [line for line in text.splitlines() if line.startswith("*")]
    assert len(lines) == 2
    for line in lines:
        command = line.split(maxsplit=5)[5]
        assert "%" not in command  # cron would end the line there
        subprocess.run(["/bin/sh", "-n", "-c", command], check=True)
        found = re.search(r"/fedfs (.*?) >>", command)
        words = shlex.split(found[1].replace("NAME", "north"))
        assert understood(words)["once"] is True


def test_the_environment_names_only_what_is_read():
    names = set(variables())
    assert {"FEDFS_STORE", "FEDFS_HOME", "nnUNet_raw", "nnUNet_results"} <= names
    assert not [name for name in names if "SECRET" in name]


@pytest.fixture
def cluster(tmp_path):
    """Return a function that runs the batch script where fedfs ends with a code."""
    (tmp_path / "env").write_text((DEPLOY / "fedfs.env.example").read_text())

    def program(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(code: int, *, at_limit: bool = False) -> tuple[int, list[str], list[str]]:
        for name in ("fedfs.calls", "scontrol.calls"):
            (tmp_path / name).write_text("")
        works = f"trap 'echo ended >> {tmp_path}/fedfs.calls; exit 143' TERM; sleep 60 & wait"
        body = works if at_limit else f"exit {code}"
        program("fedfs", f'echo "$@" >> {tmp_path}/fedfs.calls; {body}')
        program("scontrol", f'echo "$@" >> {tmp_path}/scontrol.calls')
        script = DEPLOY / "slurm" / "fedfs-site.sbatch"
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "FEDFS_ENV": str(tmp_path / "env"),
            "SLURM_JOB_ID": "17",
        }
        with subprocess.Popen(["bash", str(script), "north"], env=environment) as job:
            while at_limit and not (tmp_path / "fedfs.calls").read_text():
                time.sleep(0.05)
            if at_limit:
                job.send_signal(signal.SIGUSR1)  # as SLURM does two minutes before
            ended = job.wait(timeout=30)
        calls = [(tmp_path / f"{n}.calls").read_text().splitlines() for n in ("fedfs", "scontrol")]
        return ended, *calls

    return run


REQUEUED = ["requeue 17", "update JobId=17 StartTime=now+10minutes"]


@pytest.mark.parametrize(
    ("code", "ends_with", "goes_on"),
    [(0, 0, True), (EXIT_WAITING, 0, True), (4, 0, True), (EXIT_NOTHING, 0, False), (7, 7, False)],
)
def test_a_batch_job_goes_back_into_the_queue_while_there_is_something_to_do(
    cluster, code, ends_with, goes_on
):
    ended, fedfs_calls, scontrol_calls = cluster(code)
    assert ended == ends_with
    (words,) = map(shlex.split, fedfs_calls)
    assert understood(words)["once"] is True
    assert scontrol_calls == (REQUEUED if goes_on else [])


def test_a_batch_job_that_reaches_its_time_limit_goes_back_into_the_queue(cluster):
    ended, fedfs_calls, scontrol_calls = cluster(0, at_limit=True)
    assert ended == 0
    assert fedfs_calls[1:] == ["ended"]
    assert scontrol_calls[0] == "requeue 17"
    script = (DEPLOY / "slurm" / "fedfs-site.sbatch").read_text()
    assert "#SBATCH --requeue" in script
    assert "#SBATCH --signal=B:USR1@120" in script
