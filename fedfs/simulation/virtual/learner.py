"""A learner whose work takes virtual time: as long as its site's trace says.

Rules:
 * Results of a round are kept until the next one, as nnU-Net's checkpoints are: a step that is
   repeated because a line dropped costs no time again.
 * Time passes only while the site may compute.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedfs.learner import (
    EvaluationResult,
    Learner,
    OnProgress,
    RoundTask,
    SiteFingerprint,
    Tensors,
    TrainResult,
)
from fedfs.simulation.virtual.calendar import Hours
from fedfs.simulation.virtual.store import Clock
from fedfs.simulation.virtual.trace import SiteTrace

VALIDATION_SHARE = 1 / 3
"""Time of an iteration without a backward pass, in those of training."""

_T = TypeVar("_T")


class PacedLearner:
    """A learner that takes its time; passes everything else on.

    Args:
        inner: does the work.
        site: its speed.
        hours: when it may compute.
        clock: the site's.

    Attributes:
        busy_s: seconds that it has computed.
        round_s: seconds that the last round took to compute: its evaluation and its training.
    """

    def __init__(self, inner: Learner, site: SiteTrace, hours: Hours, clock: Clock) -> None:
        self.busy_s = self.round_s = 0.0
        self._inner = inner
        self._site = site
        self._hours = hours
        self._clock = clock
        self._results: dict[tuple[str, int], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fingerprint(self, on_progress: OnProgress) -> SiteFingerprint:
        """See :class:`fedfs.learner.Learner`; half of the time of a case."""
        work_s = self._site.cases * self._site.seconds_per_case / 2
        return self._once(("fingerprint", -1), work_s, lambda: self._inner.fingerprint(on_progress))

    def prepare(
        self, plans: Mapping[str, Any], fingerprint: Mapping[str, Any], on_progress: OnProgress
    ) -> None:
        """See :class:`fedfs.learner.Learner`; the other half."""
        work_s = self._site.cases * self._site.seconds_per_case / 2
        self._once(
            ("prepare", -1), work_s, lambda: self._inner.prepare(plans, fingerprint, on_progress)
        )

    def evaluate(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        return self._once(
            ("evaluate", task.version),
            self._validation_s(task),
            lambda: self._inner.evaluate(task, tensors, on_progress),
        )

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """See :class:`fedfs.learner.Learner`."""
        work_s = task.n_epochs * task.iterations_per_epoch * self._site.seconds_per_iteration
        work_s += task.n_epochs * self._validation_s(task)
        self.round_s = work_s + self._validation_s(task)
        return self._once(
            ("train", task.version),
            work_s,
            lambda: self._inner.train(task, tensors, on_progress),
        )

    def _validation_s(self, task: RoundTask) -> float:
        per_iteration_s = VALIDATION_SHARE * self._site.seconds_per_iteration
        return task.val_iterations_per_epoch * per_iteration_s

    def _once(self, what: tuple[str, int], work_s: float, work: Callable[[], _T]) -> _T:
        if what in self._results:
            result: _T = self._results[what]
            return result
        result = work()
        self.busy_s += work_s
        self._clock.reach(self._hours.after(self._clock.now_s, work_s))
        self._results = {k: v for k, v in self._results.items() if k[1] in (-1, what[1])}
        self._results[what] = result
        return result
