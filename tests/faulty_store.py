"""A store as one process sees it on a bad day; several of them wrap one store."""

from __future__ import annotations

from dying_store import KilledError
from fedfs.errors import StoreUnavailableError
from fedfs.store.base import Store


class FaultyStore(Store):
    """Fails as it is told to.

    Attributes:
        dies: ``"before"`` or ``"after"`` its effect, the next call kills the process; the latter is
            a lost acknowledgement. "" for not.
        unavailable: so many calls from now on find no store.
        behind: so many of the objects created last are missing from listings.
    """

    def __init__(self, inner: Store) -> None:
        self.url = inner.url
        self.inner = inner
        self.dies = ""
        self.unavailable = 0
        self.behind = 0

    def _call(self, name, *args, **kwargs):
        if self.unavailable:
            self.unavailable -= 1
            raise StoreUnavailableError(f"{self.url} cannot be reached")
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise KilledError
        result = getattr(self.inner, name)(*args, **kwargs)
        if dies == "after":
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
        entries = list(self._call("list", prefix, after=after))
        hidden = set(list(self.inner.objects)[-self.behind :]) if self.behind else set()
        return iter([entry for entry in entries if entry.key not in hidden])

    def delete(self, key):
        return self._call("delete", key)
