"""Jobs of a simulation's hosts: a turn in a study, or a prediction.

A permanent process for each host is :meth:`fedfs.simulation.hosts.LocalStudy.federate`. Tasks are
for machines that cannot bear that, and for clusters, where each is a job
(:mod:`fedfs.simulation.cluster`).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedfs.errors import EXIT_NOTHING, EXIT_OK, EXIT_WAITING, FedfsError
from fedfs.learner import OnProgress
from fedfs.nnunet.score.case_metrics import CASE_SCORES
from fedfs.nnunet.score.predict import ScoreRequests
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.system.environment import HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.simulation.hosts import Host, LocalStudy, all_results, ended_with_us, stop

SUCCESS_CODES = (EXIT_OK, EXIT_WAITING, EXIT_NOTHING)
"""Exit codes of a process that has done what it could do."""

_IDLE_S = 10.0  # after turns in which nobody could do anything


class Task(Protocol):
    """A job of one host; picklable, and may be done again."""

    @property
    def host(self) -> Host:
        """The host that does it."""

    def __call__(self) -> int:
        """Do it to the end; return an exit code as ``--once`` has."""


RunTasks = Callable[[Sequence[Task]], Sequence[int]]
"""Runs tasks, in any order or at the same time; returns exit codes in order, all of them
:data:`SUCCESS_CODES`. Raises FedfsError where one failed."""


@dataclass(frozen=True)
class Turn:
    """All that a host can do now: a fedfs command with ``--once``."""

    host: Host
    arguments: tuple[str, ...]

    def __call__(self) -> int:
        """Run the command in a process, which ends when this is interrupted."""
        process = self.host.start(*self.arguments, "--once")
        try:
            return process.wait()
        finally:
            stop([process])


@dataclass(frozen=True)
class PredictedSet:
    """A model's predictions of a raw dataset's cases, and their scores.

    Attributes:
        model: model folder, ``.../nnUNetTrainer__nnUNetPlans__2d``.
        images: raw dataset, with ``imagesTr`` and ``labelsTr``.
        output: folder for predictions and scores.
        others: further models, of which the mean of probabilities is taken.
    """

    model: Path
    images: Path
    output: Path
    others: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        """True if it was made before."""
        return (self.output / CASE_SCORES).exists()  # what is written last


@dataclass(frozen=True)
class Prediction:
    """A process that predicts sets, one after the other: importing nnU-Net takes it seconds.

    Attributes:
        device: as in :class:`~fedfs.nnunet.system.environment.HostSettings`.
        use_mirroring: nnU-Net's test-time augmentation.
    """

    host: Host
    sets: tuple[PredictedSet, ...]
    fold: str = "0"
    device: str | None = None
    use_mirroring: bool = False

    def __call__(self, on_progress: OnProgress | None = None) -> int:
        """Predict and score what is not done yet, in a process."""
        host = self.host
        settings = HostSettings(device=self.device, num_processes=1)
        requests = [
            ScoreRequest(
                model=str(one.model),
                fold=self.fold,
                images=str(one.images / "imagesTr"),
                labels=str(one.images / "labelsTr"),
                output=str(one.output),
                others=tuple(str(model) for model in one.others),
                host=settings,
                use_mirroring=self.use_mirroring,
            )
            for one in self.sets
            if not one.is_done
        ]
        run_isolated(
            "score", ScoreRequests(tuple(requests)), environ=host.environment(),
            workdir=host.folder, on_progress=on_progress,
        )  # fmt: skip
        return EXIT_OK


def run_here(tasks: Sequence[Task], at_once: int) -> list[int]:
    """Run tasks on this machine, some at the same time; a :data:`RunTasks`.

    Raises:
        FedfsError: one failed; with the end of its host's log.
    """

    def run(task: Task) -> int:
        code = task()
        if code not in SUCCESS_CODES:
            raise FedfsError(f"{task.host.name} exited with {code}:\n{task.host.log_tail()}")
        return code

    if at_once == 1:  # an interruption reaches the task itself
        return [run(task) for task in tasks]
    with ThreadPoolExecutor(at_once) as pool, ended_with_us():
        return all_results(pool, run, tasks)


def take_turns(study: LocalStudy, run: RunTasks, *, is_over: Callable[[], bool]) -> None:
    """Let every site do what it can do now, then the others, until the study is over.

    These are the aggregator, and the helper where there are secure sums.

    The study has the same results as with permanent processes.

    Args:
        study: has begun.
        run: runs the sites' turns; those of the others are always taken here.
        is_over: returns True when nothing is left to do.

    Raises:
        FedfsError: a process failed; with the end of its log.
    """
    turns = [
        Turn(host, study.run_command(site, max(1, host.slot.workers)))
        for site, host in study.sites.items()
    ]
    others = [Turn(study.coordinator, ("aggregate", str(study.store)))]
    if study.helper is not None:
        others.append(Turn(study.helper, ("helper", "run", str(study.store))))
    while not is_over():
        codes = run(turns)
        if set(codes) == {EXIT_NOTHING}:
            return
        if EXIT_OK not in (*codes, *run_here(others, 1)):
            time.sleep(_IDLE_S)
