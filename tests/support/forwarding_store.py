"""A store in front of another one, through which every call passes at one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedfs.store.base import Entry, Store


class ForwardingStore(Store):
    """Passes calls on; what wraps it says what else happens, in ``_call``."""

    def __init__(self, inner: Store) -> None:
        self.url = inner.url
        self.inner = inner

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        data: bytes = self._call("get", key, max_bytes=max_bytes)
        return data

    def create(self, key: str, data: bytes) -> bool:
        is_new: bool = self._call("create", key, data)
        return is_new

    def upload(self, key: str, path: Path) -> bool:
        is_new: bool = self._call("upload", key, path)
        return is_new

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        self._call("download", key, path, max_bytes=max_bytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return iter(list(self._call("list", prefix, after=after)))

    def delete(self, key: str) -> None:
        self._call("delete", key)
