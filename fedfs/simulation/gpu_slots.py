"""GPUs and CPU cores of the machine, divided among the processes of simulated sites.

Sites take the GPUs in turn, so several may share one. Cores of this machine are divided among the
sites that run at the same time; a job of a cluster has those that it asked for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_MOST_WORKERS = 12
"""nnU-Net's own number of processes for augmentation on most machines."""


@dataclass(frozen=True)
class Slot:
    """Share of a machine that a process of one site may use.

    Attributes:
        threads: CPU threads.
        gpu: its GPU, as CUDA counts them; None for all that there are.
        workers: processes beside the one that trains; 0 where sites share cores.
    """

    threads: int = 1
    gpu: str | None = None
    workers: int = 0

    def variables(self) -> dict[str, str]:
        """Return the environment variables that keep a process to its GPU."""
        return {} if self.gpu is None else {_VISIBLE: self.gpu}


def slot_of(
    number: int, *, gpus: Sequence[str], n_at_once: int, n_job_cpus: int | None = None
) -> Slot:
    """Return the slot of a site.

    Args:
        number: the site's place among all sites, from 0.
        gpus: as CUDA counts them; empty for whatever there is.
        n_at_once: sites that run at the same time on this machine.
        n_job_cpus: CPUs of the site's job; None where it shares this machine.
    """
    gpu = gpus[number % len(gpus)] if gpus else None
    if n_job_cpus is not None:
        return Slot(n_job_cpus, gpu, workers=n_job_cpus - 1)
    cores = os.cpu_count() or 1
    workers = min(cores - 1, _MOST_WORKERS) if n_at_once == 1 else 0
    return Slot(max(1, cores // n_at_once), gpu, workers)


def visible_gpus() -> str | None:
    """Return the GPUs that this process may use, as CUDA counts them; None for all."""
    return os.environ.get(_VISIBLE)


def set_visible_gpus(gpus: str | None) -> None:
    """Let this process, and those that it starts, use these GPUs; None for all."""
    os.environ.pop(_VISIBLE, None)
    if gpus is not None:
        os.environ[_VISIBLE] = gpus
