"""A store that tries again when the store behind it cannot be reached for a moment.

Verbs may be repeated, so what a lost reply leaves open is settled by asking again: to create what
is there already with the same bytes is success.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from fedfs.errors import StoreUnavailableError
from fedfs.store.base import Entry, Store

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class RetryingStore(Store):
    """Repeats what failed with :class:`~fedfs.errors.StoreUnavailableError`.

    Args:
        inner: the store.
        attempts: how often at most.
        first_pause_s: before the second attempt; each pause is twice the one before, with jitter.
        max_pause_s: longest pause.
        pause: waits so many seconds.
        rng: source of the jitter.
    """

    def __init__(
        self,
        inner: Store,
        *,
        attempts: int = 5,
        first_pause_s: float = 0.5,
        max_pause_s: float = 20.0,
        pause: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.url = inner.url
        self._inner = inner
        self._attempts = attempts
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._pause = pause
        self._rng = rng or random.Random()  # noqa: S311  jitter

    @property
    def request_counts(self) -> Mapping[str, int]:  # type: ignore[override]  # counted as they are made
        """Those of the store behind it."""
        return self._inner.request_counts

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        return self._try(lambda: self._inner.get(key, max_bytes=max_bytes))

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return self._try(lambda: self._inner.create(key, data))

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        return self._try(lambda: self._inner.upload(key, path))

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        self._try(lambda: self._inner.download(key, path, max_bytes=max_bytes))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`; goes on behind the last key that was listed."""
        entries = self._inner.list(prefix, after=after)
        attempt = 0
        while True:
            try:
                entry = next(entries, None)
            except StoreUnavailableError as error:
                attempt += 1
                self._wait(attempt, error)
                entries = self._inner.list(prefix, after=after)
                continue
            if entry is None:
                return
            attempt, after = 0, entry.key
            yield entry

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        self._try(lambda: self._inner.delete(key))

    def watch_path(self) -> Path | None:
        """See :meth:`fedfs.store.base.Store.watch_path`."""
        return self._inner.watch_path()

    def _try(self, verb: Callable[[], _T]) -> _T:
        attempt = 0
        while True:
            try:
                return verb()
            except StoreUnavailableError as error:
                attempt += 1
                self._wait(attempt, error)

    def _wait(self, attempt: int, error: StoreUnavailableError) -> None:
        """Wait before the next attempt.

        Raises:
            StoreUnavailableError: there were enough.
        """
        if attempt >= self._attempts:
            raise error
        longest_s = min(self._first_pause_s * 2 ** (attempt - 1), self._max_pause_s)
        pause_s = longest_s * self._rng.uniform(0.5, 1.0)
        log.info("%s; trying again in %.1f s", error, pause_s)
        self._pause(pause_s)
