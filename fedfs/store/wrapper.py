"""A store in front of another one, which does what it is asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedfs.store.base import Entry, Store


class Wrapper(Store):
    """Passes every verb on; a wrapper overrides those to which it adds something."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url

    @property
    def request_counts(self) -> Mapping[str, int]:  # type: ignore[override]  # read, never set
        """Requests that the store behind this one made."""
        return self._inner.request_counts

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        return self._inner.get(key, max_bytes=max_bytes)

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return self._inner.create(key, data)

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        return self._inner.upload(key, path)

    def adopt(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.adopt`."""
        return self._inner.adopt(key, path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See :meth:`fedfs.store.base.Store.scratch`."""
        with self._inner.scratch() as folder:
            yield folder

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        self._inner.download(key, path, max_bytes=max_bytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        return self._inner.list(prefix, after=after)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        self._inner.delete(key)

    def watch_path(self) -> Path | None:
        """See :meth:`fedfs.store.base.Store.watch_path`."""
        return self._inner.watch_path()
