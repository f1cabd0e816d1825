"""Rounds of training in this process, each continued where a process before left it.

A round trains epoch by epoch, and keeps a checkpoint now and then and at its end
(:mod:`fedfs.nnunet.train.checkpoints`). The trainer lives on from round to round.
"""

import logging
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fedfs.learner import OnProgress, RoundTask, Tensors, TrainResult
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.train.checkpoints import CheckpointStore, RoundProgress
from fedfs.nnunet.train.session import Session

log = logging.getLogger(__name__)


class Rounds:
    """A trainer and its checkpoints, from round to round.

    Args:
        settings: of the site's learner.
        plans: the adopted plan.
        dataset: the site's, without the cases that it goes on without.
        clock: seconds.

    Attributes:
        session: the trainer; None while there is none.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        plans: Mapping[str, Any],
        dataset: RawDataset,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._plans = plans
        self._dataset = dataset
        self._clock = clock
        self.session: Session | None = None
        self._trained: RoundProgress | None = None

    def open(self, task: RoundTask) -> Session:
        """Return a trainer with the round's schedule: the one there is, or a new one."""
        if self.session is not None and not self.session.serves(task):
            self.close()
        if self.session is None:
            self.session = Session(
                self._settings, self._plans, self._dataset, task=task, clock=self._clock
            )
        return self.session

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """Train the round's budget; see :meth:`fedfs.learner.Learner.train`."""
        session, progress = self.resume(task, tensors)
        saved = self._clock()
        seconds = {"training": 0.0, "validation": 0.0, "checkpoint": 0.0, **progress.seconds}
        while not _is_over(progress, task):
            left_s = math.inf if task.max_seconds is None else task.max_seconds
            n_iterations, spent = session.train_epoch(
                on_progress,
                task=task,
                until_s=self._clock() + left_s - seconds["training"],
            )
            for phase, value in spent.items():
                seconds[phase] += value
            progress = replace(
                progress,
                epochs_done=progress.epochs_done + 1,
                n_iterations=progress.n_iterations + n_iterations,
                metrics=session.metrics(),
                seconds=dict(seconds),
            )
            is_due = self._clock() - saved >= self._settings.checkpoint_interval_s
            if is_due or _is_over(progress, task):
                session.tensors()  # never keep what is not finite
                began = self._clock()
                if session.is_first:
                    progress = self.checkpoints().save(progress, session.save)
                saved = self._clock()
                seconds["checkpoint"] += saved - began
        self._trained = progress
        return TrainResult(
            tensors=session.tensors(),
            n_training_cases=session.n_training_cases,
            n_epochs=progress.n_iterations // task.iterations_per_epoch,
            n_iterations=progress.n_iterations,
            metrics=progress.metrics,
            seconds=seconds,
        )

    def resume(self, task: RoundTask, tensors: Tensors) -> tuple[Session, RoundProgress]:
        """Bring a trainer to where the round stands; return both."""
        session, kept = self.recover(task)
        if kept is not None and kept.belongs_to(task):
            progress = kept
            log.info(
                "round of version %d continued after epoch %d", task.version, progress.epochs_done
            )
        else:
            progress = self.checkpoints().fresh(task)
            session.load(tensors)
        session.start_at(task.first_epoch + progress.epochs_done)
        session.set_base(tensors, task)
        return session, progress

    def recover(self, task: RoundTask) -> tuple[Session, RoundProgress | None]:
        """Return a trainer as the last checkpoint left it, and how far that is."""
        session, kept = self.open(task), self.checkpoints().load()
        if kept is None:
            return session, None
        progress, checkpoint = kept
        if progress == self._trained and not progress.belongs_to(task):
            return session, progress  # this very trainer wrote it
        try:
            session.restore(checkpoint)
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            log.warning("%s is not used: it cannot be loaded (%s)", checkpoint, error)
            self.close()
            return self.open(task), None
        return session, progress

    def checkpoints(self) -> CheckpointStore:
        """Return the checkpoints of this plan, trainer, configuration and fold."""
        settings = self._settings
        identity = files.json_sha256(
            [self._plans, settings.trainer, settings.configuration, settings.fold]
        )
        return CheckpointStore(settings.state_dir, identity)

    def close(self) -> None:
        """Let go of the trainer, with its workers and its memory."""
        session, self.session, self._trained = self.session, None, None
        if session is not None:
            session.close()


def _is_over(progress: RoundProgress, task: RoundTask) -> bool:
    """Return True if a round has had its epochs, or its seconds of training in all processes."""
    if progress.epochs_done >= task.n_epochs:
        return True
    if task.max_seconds is None or progress.n_iterations == 0:
        return False
    return progress.seconds.get("training", 0.0) >= task.max_seconds
