"""Statuses: a process tells others what it is doing."""

import itertools
import logging
import math
from collections.abc import Callable

from fedfs.errors import FedfsError, ObjectExistsError, RejectedError
from fedfs.exchange.publish import Clock, Publisher
from fedfs.learner import Progress
from fedfs.protocol import layout
from fedfs.protocol.messages import StatusMessage, utc
from fedfs.protocol.text import printable

log = logging.getLogger(__name__)


_KEPT_STATUSES = 2
_MAX_TEXT = 2000
_MAX_REJECTED = 100
"""Refused objects that a status names: anybody who can write to the store can add more."""


class StatusReporter:
    """Publishes what a process is doing, seldom and at no risk: a status that fails is only logged.

    Args:
        publisher: signs and publishes.
        site: the site, or "" for the aggregator.
        interval_s: shortest time between two statuses of the same step.
        clock: POSIX seconds.
        listener: called with every progress, for the terminal.
    """

    def __init__(
        self,
        publisher: Publisher,
        site: str,
        *,
        interval_s: float,
        clock: Clock,
        listener: Callable[[Progress], None] | None = None,
    ) -> None:
        self._publisher = publisher
        self._site = site
        self._interval_s = interval_s
        self._clock = clock
        self._listener = listener
        self._number: int | None = None
        self._last_s = -math.inf
        self._last: tuple[object, ...] = ()
        self._step_began: tuple[str, float] = ("", 0.0)
        self._counting_since = ""
        self._counted_before: dict[str, int] = {}
        self.version = -1
        self.rejected: dict[str, str] = {}

    def progress(self, progress: Progress) -> None:
        """Report progress of a step; a :data:`fedfs.learner.OnProgress`."""
        if self._listener is not None:
            self._listener(progress)
        now_s = self._clock()
        if self._step_began[0] != progress.step:
            self._step_began = (progress.step, now_s)
        elapsed_s = now_s - self._step_began[1]
        eta_s = None
        if progress.done > 0 and progress.total >= progress.done:
            eta_s = round(elapsed_s / progress.done * (progress.total - progress.done), 1)
        what = (progress.step, self.version)
        if what != self._last or now_s - self._last_s >= self._interval_s:
            self._publish(what, progress, eta_s=eta_s)

    def say(self, step: str, *, waiting_for: str = "", error: str = "") -> None:
        """Report a state; the same state again is published only once."""
        what = (step, self.version, waiting_for, error, tuple(sorted(self.rejected)))
        if what != self._last:
            at_rest = Progress(step, done=0, total=0, unit="")
            self._publish(what, at_rest, waiting_for=waiting_for, error=error)

    def _publish(
        self,
        what: tuple[object, ...],
        progress: Progress,
        *,
        eta_s: float | None = None,
        waiting_for: str = "",
        error: str = "",
    ) -> None:
        self._last, self._last_s = what, self._clock()

        def publish() -> None:
            number = self._next_number()
            requests, since = self._count()
            self._publisher.publish(
                StatusMessage(
                    key=layout.status(self._site or None, number),
                    site=self._site,
                    step=progress.step,
                    version=self.version,
                    done=progress.done,
                    total=progress.total,
                    unit=progress.unit,
                    eta_s=eta_s,
                    waiting_for=printable(waiting_for, limit=_MAX_TEXT),
                    error=printable(error, limit=_MAX_TEXT),
                    rejected=dict(itertools.islice(sorted(self.rejected.items()), _MAX_REJECTED)),
                    requests=requests,
                    counting_since=since,
                )
            )

        try:
            try:
                publish()
            except ObjectExistsError:  # this role's other worker on the track took the number
                self._number = None
                publish()
        except (FedfsError, OSError, ValueError) as failure:
            # A store, a signer or a text that fails: whoever works goes on without a status.
            self._number = None
            log.warning("could not publish the status: %s", failure)

    def _count(self) -> tuple[dict[str, int], str]:
        """Return the requests of this process and of those before it, and since when."""
        self._counting_since = self._counting_since or utc(self._clock())
        counts = dict(self._counted_before)
        for name, n in self._publisher.store.request_counts.items():
            counts[name] = counts.get(name, 0) + n
        return counts, self._counting_since

    def _go_on_counting(self, key: str) -> None:
        """Take over the counts of this role's last process from its last status."""
        try:
            before = self._publisher.read_own(StatusMessage, key)
        except RejectedError as error:
            log.warning("%s The count of requests starts anew.", error.under(key))
            return
        self._counted_before = dict(before.requests)
        self._counting_since = before.counting_since

    def _next_number(self) -> int:
        store = self._publisher.store
        if self._number is None:
            prefix = layout.status(self._site or None, 0).rpartition("/")[0] + "/"
            keys = [layout.parse(entry.key) for entry in store.list(prefix)]
            numbers = sorted(key.number for key in keys if key and key.number is not None)
            self._number = numbers[-1] if numbers else 0
            if numbers and not self._counting_since:
                self._go_on_counting(layout.status(self._site or None, self._number))
            stale = numbers[: 1 - _KEPT_STATUSES]
        else:
            stale = [self._number + 1 - _KEPT_STATUSES]
        for number in stale:
            if number > 0:
                store.delete(layout.status(self._site or None, number))
        self._number += 1
        return self._number
