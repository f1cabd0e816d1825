"""Trying again: a store that hides short interruptions of the one behind it.

Rules:
 * Only :class:`~fedfs.errors.StoreUnavailableError` is tried again; every verb may be repeated.
 * Pauses double and are jittered, so that many hosts do not come back at the same instant.
 * A listing that breaks goes on behind the last key that was yielded.
 * What made progress starts to count from the beginning.
 * Time counts, too: a server that takes connections and is silent is not waited for as often as one
   that refuses them, so that a process that was started by cron ends within a minute.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from fedfs.errors import StoreUnavailableError
from fedfs.store.base import Entry, Store
from fedfs.store.wrapper import Wrapper

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """Number of attempts, and the pauses between them.

    Attributes:
        attempts: tries in all, without progress.
        first_s: upper bound of the first pause, which each further failure doubles.
        most_s: upper bound of any pause.
        budget_s: no attempt begins when so many seconds have passed since the first one began, or
            since there was progress.
        pause: waits so many seconds.
        clock: seconds since some instant.
        rng: draws the pauses, from half the bound up to the bound.
    """

    attempts: int = 5
    first_s: float = 0.5
    most_s: float = 15.0
    budget_s: float = 20.0
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random, repr=False)

    def repeat(self, action: Callable[[], _T], *, progress: Callable[[], int] = lambda: 0) -> _T:
        """Return what ``action`` returns, in one of the attempts.

        Args:
            action: may be repeated.
            progress: a number that has grown whenever an attempt that failed was not in vain.

        Raises:
            StoreUnavailableError: every attempt failed; the last one's.
        """
        attempts, reached = Attempts(self), progress()
        while True:
            try:
                return action()
            except StoreUnavailableError as error:
                now = progress()
                if now > reached:
                    attempts.note_progress()
                reached = now
                attempts.wait_after(error)


class Attempts:
    """The failures in a row of one action, since the last progress."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.note_progress()

    def note_progress(self) -> None:
        """Start to count from the beginning."""
        self._failures, self._began_s = 0, self._patience.clock()

    def wait_after(self, error: StoreUnavailableError) -> None:
        """Pause after a failure.

        Raises:
            StoreUnavailableError: ``error``, because there were too many, or they took too long.
        """
        patience = self._patience
        self._failures += 1
        spent_s = patience.clock() - self._began_s
        if self._failures >= patience.attempts or spent_s >= patience.budget_s:
            raise error
        bound_s = min(patience.most_s, patience.first_s * 2.0 ** (self._failures - 1))
        pause_s = bound_s * (1 + patience.rng.random()) / 2
        text = "%s Attempt %d follows in %.1f s."
        _log.warning(text, error.local_text, self._failures + 1, pause_s)
        patience.pause(pause_s)


class RetryingStore(Wrapper):
    """Repeats what the store behind it could not do because it was not reachable."""

    def __init__(self, inner: Store, patience: Patience | None = None) -> None:
        super().__init__(inner)
        self._patience = patience or Patience()

    def _perform(self, verb: Callable[[], _T]) -> _T:
        return self._patience.repeat(verb)

    def remove_empty_folder(self, prefix: str) -> None:
        """See :meth:`fedfs.store.base.Store.remove_empty_folder`."""
        self._inner.remove_empty_folder(prefix)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        attempts = Attempts(self._patience)
        while True:
            try:
                for entry in self._inner.list(prefix, after=after):
                    after = entry.key
                    attempts.note_progress()
                    yield entry
            except StoreUnavailableError as error:
                attempts.wait_after(error)
            else:
                return
