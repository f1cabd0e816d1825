"""The machine or cluster that the processes of an experiment share."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedfs.simulation.cluster import LOCAL, Cluster
from fedfs.simulation.gpu_slots import Slot, slot_of
from fedfs.simulation.jobs import Task, run_here


@dataclass(frozen=True)
class Machine:
    """This machine, or a cluster.

    Attributes:
        gpus: as CUDA counts them, given to sites in turn; empty for whatever there is.
        at_once: sites that run at the same time; 0 for all.
        cluster: runs every task as a job; None for processes of this machine.
    """

    gpus: Sequence[str] = ()
    at_once: int = 0
    cluster: Cluster | None = None

    @property
    def is_one(self) -> bool:
        """True where all processes run on this machine."""
        return self.cluster is None or self.cluster.kind == LOCAL

    def n_at_once(self, n_sites: int) -> int:
        """Return how many of so many sites run at the same time."""
        return min(self.at_once or n_sites, n_sites)

    def slot(self, number: int = 0, *, n_at_once: int = 1) -> Slot:
        """Return the share of a site's processes.

        Args:
            number: the site's place among all sites, from 0.
            n_at_once: sites that run at the same time.
        """
        n_job_cpus = None if self.cluster is None else self.cluster.n_cpus
        return slot_of(number, gpus=self.gpus, n_at_once=n_at_once, n_job_cpus=n_job_cpus)

    def run(self, tasks: Sequence[Task], n_here: int) -> list[int]:
        """Run tasks as jobs if there is a cluster, otherwise so many at a time on this machine."""
        return run_here(tasks, n_here) if self.cluster is None else self.cluster.run(tasks)

    def cancelled_with_us(self) -> contextlib.AbstractContextManager[None]:
        """Cancel all jobs when the block is left by Ctrl-C."""
        return (
            contextlib.nullcontext() if self.cluster is None else self.cluster.cancelled_with_us()
        )
