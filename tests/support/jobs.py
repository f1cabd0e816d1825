"""A task for tests of jobs: begins, waits until it may go on, ends. Jobs import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fedfs.simulation.cluster import Cluster
from fedfs.simulation.hosts import Host


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


def main(kind: str, folder: str) -> None:
    """Submit a job, and wait for it, as a process that can be killed or interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may run us where it is ignored
    cluster = Cluster(kind, {})
    with cluster.cancelled_with_us():
        cluster.run([Waits(Host("north", Path(folder)))])


if __name__ == "__main__":
    main(*sys.argv[1:])
