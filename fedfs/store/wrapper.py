"""Stores in front of another one, which does what they are asked to."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fedfs.store.base import Entry, ReadableStore, Store

_T = TypeVar("_T")


class ReadableWrapper(ReadableStore):
    """Passes the reading verbs on; a wrapper overrides those to which it adds something."""

    def __init__(self, inner: ReadableStore) -> None:
        self._inner = inner
        self.url = inner.url
        self.request_counts = inner.request_counts
        self.at_once = inner.at_once

    def _inner_key(self, key: str) -> str:
        """Return the key under which the inner store keeps what is ``key`` here."""
        return key

    def _perform(self, verb: Callable[[], _T]) -> _T:
        """Return what a verb of the inner store returns; a listing does not pass here."""
        return verb()

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.ReadableStore.get`."""
        return self._perform(lambda: self._inner.get(self._inner_key(key), max_bytes=max_bytes))

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.ReadableStore.download`."""
        inner_key = self._inner_key(key)
        self._perform(lambda: self._inner.download(inner_key, path, max_bytes=max_bytes))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.ReadableStore.list`."""
        return self._inner.list(prefix, after=after)


class Wrapper(ReadableWrapper, Store):
    """Passes every verb on; a wrapper overrides those to which it adds something."""

    _inner: Store

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)

    @property
    def promises_one_winner(self) -> bool:
        """See :attr:`fedfs.store.base.Store.promises_one_winner`."""
        return self._inner.promises_one_winner

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return self._perform(lambda: self._inner.create(self._inner_key(key), data))

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        return self._perform(lambda: self._inner.upload(self._inner_key(key), path))

    def adopt(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.adopt`."""
        return self._perform(lambda: self._inner.adopt(self._inner_key(key), path))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See :meth:`fedfs.store.base.Store.scratch`."""
        with self._inner.scratch() as folder:
            yield folder

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        self._perform(lambda: self._inner.delete(self._inner_key(key)))

    def watch_path(self) -> Path | None:
        """See :meth:`fedfs.store.base.Store.watch_path`."""
        return self._inner.watch_path()
