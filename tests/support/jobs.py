"""A task for tests of jobs, which waits until it may go on, and what watches it. Jobs import it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedfs.simulation.cluster import Cluster
from fedfs.simulation.hosts import Host
from fedfs.simulation.jobs import Task


@dataclass(frozen=True)
class Waits:
    """Ends when there is a file ``go`` in the host's folder, with the exit code in it."""

    host: Host

    def __call__(self) -> int:
        go = self.host.folder / "go"
        self._note(f"begins, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        while not go.exists() or not go.read_text():  # it is written after it appears
            time.sleep(0.02)
        self._note("ends")
        return int(go.read_text())

    def _note(self, text: str) -> None:
        with self.host.log_path.open("a") as log:
            log.write(f"{text}\n")


def has_begun(host: Host, times: int = 1) -> bool:
    """Return whether tasks of a host have begun so often."""
    return host.log_tail().count("begins") == times


@contextlib.contextmanager
def running(jobs: Cluster, tasks: Sequence[Task]) -> Iterator[Future[list[int]]]:
    """Tasks at work; whatever a test finds, none waits for ever."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(jobs.run, tasks)
        try:
            yield future
        finally:
            for task in tasks:
                (task.host.folder / "go").write_text("0")


def submitter(kind: str, host: Host) -> subprocess.Popen[bytes]:
    """A process that submits a job and is at the mercy of the test."""
    command = [sys.executable, __file__, kind, str(host.folder)]
    return subprocess.Popen(command, start_new_session=True)


def main(kind: str, folder: str) -> None:
    """Submit a job, and wait for it, as a process that can be killed or interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may run us where it is ignored
    cluster = Cluster(kind, {})
    with cluster.cancelled_with_us():
        cluster.run([Waits(Host("north", Path(folder)))])


if __name__ == "__main__":
    main(*sys.argv[1:])
