"""``fedfs simulate --cluster slurm`` on a real SLURM: all that can end a job, then the table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfs.simulation import phantoms
from fedfs.simulation.hosts import Host
from support.phantom_hosts import check_study
from support.servers import wait_for
from support.slow import slow

pytestmark = [
    pytest.mark.nnunet, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm"), slow,
]  # fmt: skip

OPTIONS = (
    "--arms", "ffe", "--rounds", "1", "--local-iterations", "3", "--val-iterations", "2",
    "--no-final-validation", "--device", "cpu", "--json",
    "--init", "gpu-memory-target=0.02", "--init", "planner-option=UNet_base_num_features=8",
    "--init", "planner-option=UNet_max_features_2d=16",
    "--cluster", "slurm", "--slurm", "mem_gb=40", "--slurm", "partition=main",
)  # fmt: skip
SITE_RUN = ("site", "run", "--once")


class Start:
    """A start of the command, always the same."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        command = [sys.executable, "-m", "fedfs", "simulate", str(folder / "out")]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, "--data", str(folder / "images"), *OPTIONS],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._said.read_text()

    def wait_for(self, something: Callable[[], object]) -> None:
        """Wait until something is true while the command runs."""
        wait_for(
            lambda: something() or self.process.poll() is not None,
            at_most_s=300,
            explain=self.said,
        )
        assert self.process.poll() is None, self.said()

    def error(self) -> str:
        """Wait for an end with an error, and return what was said."""
        self.process.communicate(timeout=300)
        assert self.process.returncode == 1, self.said()
        return self.said()


def process_of(host: Host, *words: str) -> int:
    """Return the number of a host's process with these words in its command; 0 without one."""
    home = f"FEDFS_HOME={host.folder / 'fedfs'}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if {*words} <= {*command} and home in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    return 0


def job_of(host: Host) -> str:
    """Return the number of a host's job that is under way."""
    (path,) = (host.folder / "jobs").glob("*_submitted.pkl")
    return path.name.partition("_")[0]


def jobs_of(host: Host) -> list[str]:
    """Return the numbers of a host's jobs so far."""
    logs = (host.folder / "jobs").glob("*_log.out")
    return sorted((path.name.partition("_")[0] for path in logs), key=int)


def test_whatever_ends_its_jobs_the_same_command_ends_with_the_table(slurm, tmp_path):
    """Preempted, cancelled, killed; then the command is killed, and a job suspended meanwhile."""
    phantoms.write_dataset(tmp_path / "images", n_cases={"east": 7, "north": 7}, seed=4)
    study = tmp_path / "out" / "ffe-2d-fold0-seed1" / "study"
    _, north = hosts = [Host(name, study / "hosts" / name) for name in ("east", "north")]
    version_0 = study / "store" / "tracks" / "2d-0" / "aggregator" / "models" / "00000"

    start = Start(tmp_path)
    start.wait_for(lambda: all(process_of(host, *SITE_RUN) for host in hosts))
    numbers = {host.name: job_of(host) for host in hosts}
    urgent = ("sbatch", "--parsable", "--partition=urgent", "--mem=90G", "--output=/dev/null")
    slurm.call(*urgent, "--wrap", "true")
    said = start.error()
    for name, job in numbers.items():
        assert f"Job {job} of {name} was preempted:" in said
    assert "the same command goes on from there" in said

    start = Start(tmp_path)
    start.wait_for(lambda: process_of(north, *SITE_RUN))
    job = job_of(north)
    slurm.call("scancel", job)
    assert f"Job {job} of north ended as CANCELLED by 0:" in start.error()

    start = Start(tmp_path)
    start.wait_for(lambda: version_0.exists() and process_of(north, *SITE_RUN))
    job = job_of(north)
    os.kill(process_of(north, *SITE_RUN), signal.SIGKILL)  # as the kernel does without memory
    assert f"Job {job} of north exited with -9:" in start.error()

    start = Start(tmp_path)
    start.wait_for(lambda: process_of(north, *SITE_RUN))
    job = job_of(north)
    slurm.call("scontrol", "suspend", job)
    start.process.kill()
    start.process.communicate()
    slurm.wait_for_state(job, "SUSPENDED")

    start = Start(tmp_path)
    start.wait_for(lambda: f"job {job} of north goes on from an earlier start" in start.said())
    assert jobs_of(north)[-1] == job
    slurm.call("scontrol", "resume", job)
    out, _ = start.process.communicate(timeout=400)
    assert start.process.returncode == 0, start.said()

    check_study(str(study / "store"), rounds=1, sites=["east", "north"])
    assert slurm.call("squeue", "-h") == ""
    assert not list(study.rglob("jobs/*.pkl"))
    result = json.loads(out)
    assert set(result["cells"]["ffe"]) == {"east", "north", "mean"}
    assert all(0 <= cell["dice"] <= 1 for cell in result["cells"]["ffe"].values())
    assert "| ffe " in (tmp_path / "out" / "table.md").read_text()
