"""Each file of ``deploy/`` says what this version of fedfs understands, and does what it says."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
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
    assert len(lines) == 3
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
