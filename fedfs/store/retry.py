"""Trying again: a store that hides short interruptions of the one behind it.

Rules:
 * Only :class:`~fedfs.errors.StoreUnavailableError` is tried again; every verb may be repeated.
 * Pauses double and are jittered, so that many hosts do not come back at the same instant.
 * A listing that breaks goes on behind the last key that was yielded.
 * What made progress starts to count from the beginning.
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
        pause: waits so many seconds.
        rng: draws the pauses, from half the bound up to the bound.
    """

    attempts: int = 5
    first_s: float = 0.5
    most_s: float = 15.0
    pause: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.Random, repr=False)

    def repeat(self, action: Callable[[], _T], *, progress: Callable[[], int] = lambda: 0) -> _T:
        """Return what ``action`` returns, in one of the attempts.

        Args:
            action: may be repeated.
            progress: a number that has grown whenever an attempt that failed was not in vain.

        Raises:
            StoreUnavailableError: every attempt failed; the last one's.
        """
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except StoreUnavailableError as error:
                now = progress()
                failures, reached = 1 if now > reached else failures + 1, now
                self.wait(failures, error)

    def wait(self, failures: int, error: StoreUnavailableError) -> None:
        """Pause after so many failures in a row.

        Raises:
            StoreUnavailableError: ``error``, because there were too many.
        """
        if failures >= self.attempts:
            raise error
        bound_s = min(self.most_s, self.first_s * 2.0 ** (failures - 1))
        pause_s = bound_s * (1 + self.rng.random()) / 2
        _log.warning("%s Attempt %d follows in %.1f s.", error.local_text, failures + 1, pause_s)
        self.pause(pause_s)


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
        failures = 0
        while True:
            try:
                for entry in self._inner.list(prefix, after=after):
                    failures, after = 0, entry.key
                    yield entry
            except StoreUnavailableError as error:
                failures += 1
                self._patience.wait(failures, error)
            else:
                return
