"""A store under which a process dies."""

from __future__ import annotations

from fedfs.store.base import Store


class KilledError(BaseException):
    """The process is gone."""


class DyingStore(Store):
    """Passes calls on and dies at the ``k``-th, before or after it took effect."""

    def __init__(self, inner: Store, k: int, *, after: bool) -> None:
        self.url = inner.url
        self.inner, self.left, self.after = inner, k, after

    def _call(self, name, *args, **kwargs):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KilledError
        result = getattr(self.inner, name)(*args, **kwargs)
        if self.left == 0:
            raise KilledError
        return result

    def get(self, key, *, max_bytes):
        return self._call("get", key, max_bytes=max_bytes)

    def create(self, key, data):
        return self._call("create", key, data)

    def upload(self, key, path):
        return self._call("upload", key, path)

    def download(self, key, path, *, max_bytes):
        return self._call("download", key, path, max_bytes=max_bytes)

    def list(self, prefix, *, after=""):
        return iter(list(self._call("list", prefix, after=after)))

    def delete(self, key):
        return self._call("delete", key)
