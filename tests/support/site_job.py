"""The job of a site on SLURM: the script of ``deploy/slurm``, unchanged."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from support.servers import wait_for
from support.slurm_node import SlurmNode

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "fedfs-site.sbatch"
EXAMPLE = SCRIPT.parents[1] / "fedfs.env.example"
_SOON_S = 4


class SiteJob:
    """A job and its folder.

    Args:
        slurm: where it runs.
        folder: its working directory, for its log.
        program: of the command fedfs, for sh.
        environment: text of the file that FEDFS_ENV names.
    """

    job = ""

    def __init__(self, slurm: SlurmNode, folder: Path, program: str, environment: str) -> None:
        self.folder = folder
        self._slurm = slurm
        command = folder / "fedfs"
        command.write_text(f"#!/bin/sh\n{program}\n")
        command.chmod(0o755)
        (folder / "env").write_text(environment)

    def submit(self, site: str, *options: str) -> None:
        """Submit it, as a user would."""
        variables = {
            "PATH": f"{self.folder}:{os.environ['PATH']}", "FEDFS_ENV": str(self.folder / "env"),
        }  # fmt: skip
        command = ["sbatch", "--parsable", f"--chdir={self.folder}", *options, str(SCRIPT), site]
        self.job = self._slurm.call(*command, environment=variables).strip()

    def cancel(self) -> None:
        """Cancel it, if it was submitted."""
        if self.job:
            self._slurm.call("scancel", self.job)

    def log(self) -> str:
        """Return its log so far."""
        return (self.folder / "fedfs-fedfs.log").read_text()

    def describe(self) -> str:
        """Return its log, and what SLURM knows about it."""
        return f"{self.log()}\n{self._slurm.facts(self.job)}\n{self._slurm.logs()}"

    def is_queued(self) -> bool:
        """Tell whether it waits for its time, and nothing of it runs any more."""
        return self._slurm.state(self.job).startswith("PENDING:BeginTime")

    def is_queued_again(self, times: int) -> bool:
        """Tell whether it has gone back into the queue so often, and waits for its time."""
        return self._slurm.facts(self.job)["Restarts"] == str(times) and self.is_queued()

    def has_ended(self) -> bool:
        """Tell whether it will never run again."""
        return not self._slurm.state(self.job).startswith(("PENDING", "RUNNING", "COMPLETING"))

    def minutes_until_it_begins(self) -> float:
        """Return for how long it will wait."""
        at = self._slurm.facts(self.job)["StartTime"]
        if at == "Unknown":
            return 0.0
        wait = datetime.datetime.fromisoformat(at) - datetime.datetime.now()  # noqa: DTZ005  as SLURM
        return wait.total_seconds() / 60

    def begin_now(self) -> None:
        """Let it begin, once it waits.

        Not in the same second: its new permission has to be younger than the end of the one before.
        """
        wait_for(self.is_queued, explain=self.describe)
        soon = f"StartTime=now+{_SOON_S}seconds"
        self._slurm.call("scontrol", "update", f"JobId={self.job}", soon)
