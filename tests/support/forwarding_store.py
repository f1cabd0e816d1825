"""A store in front of another one, through which every call passes at one place."""

from __future__ import annotations

from fedfs.store.base import Store


class ForwardingStore(Store):
    """Passes calls on; what wraps it says what else happens, in ``_call``."""

    def __init__(self, inner: Store) -> None:
        self.url = inner.url
        self.inner = inner

    def _call(self, name, *args, **kwargs):
        return getattr(self.inner, name)(*args, **kwargs)

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
