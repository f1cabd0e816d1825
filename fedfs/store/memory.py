"""A store in this process's memory: the test double of the project, with the promises of the seam.

The dictionary ``objects`` is public so that a test can look, or meddle, behind the store's back.
"""

import bisect
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedfs.protocol.layout import check_key
from fedfs.store import local_files
from fedfs.store.base import Entry, Store, check_prefix, is_key


@dataclass(frozen=True)
class StoredObject:
    """An object and its time of creation, in seconds since 1970."""

    data: bytes
    modified_s: float


class MemoryStore(Store):
    """Objects in a dictionary behind a lock."""

    at_once = 1  # nothing is waited for

    def __init__(self, *, name: str = "test", clock: Callable[[], float] = time.time) -> None:
        self.url = f"memory://{name}"
        self.objects: dict[str, StoredObject] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        check_key(key)
        with self._lock:
            found = self.objects.get(key)
        if found is None:
            raise self._not_found(key)
        if len(found.data) > max_bytes:
            raise self._too_large(key, max_bytes)
        return found.data

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        check_key(key)
        with self._lock:
            found = self.objects.get(key)
            if found is None:
                self.objects[key] = StoredObject(bytes(data), self._clock())
                return True
        if found.data != data:
            raise self._exists(key)
        return False

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`; here memory is the store."""
        check_key(key)
        with local_files.open_local(path) as file:
            data = b"".join(local_files.local_chunks(file))
        return self.create(key, data)

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        data = self.get(key, max_bytes=max_bytes)
        steps = range(0, len(data), local_files.CHUNK_BYTES)
        local_files.write_local(
            path,
            (data[start : start + local_files.CHUNK_BYTES] for start in steps),
            synced=False,
        )

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        check_prefix(prefix)
        with self._lock:
            found = sorted(k for k in self.objects if k.startswith(prefix) and k > after)
            entries = [
                Entry(key, len(self.objects[key].data), self.objects[key].modified_s)
                for key in found
                if is_key(key)
            ]
        return iter(entries)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        check_key(key)
        with self._lock:
            self.objects.pop(key, None)


class IndexedMemoryStore(MemoryStore):
    """Finds a prefix without looking at all objects, as servers do.

    Its objects are created and deleted by its own methods, and by one thread.
    """

    def __init__(self, *, name: str = "test", clock: Callable[[], float] = time.time) -> None:
        super().__init__(name=name, clock=clock)
        self._keys: list[str] = []

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        is_new = super().create(key, data)
        if is_new:
            bisect.insort(self._keys, key)
        return is_new

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        super().delete(key)
        place = bisect.bisect_left(self._keys, key)
        if self._keys[place : place + 1] == [key]:
            del self._keys[place]

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        place = max(bisect.bisect_left(self._keys, prefix), bisect.bisect_right(self._keys, after))
        while place < len(self._keys) and self._keys[place].startswith(prefix):
            found = self.objects[self._keys[place]]
            yield Entry(self._keys[place], len(found.data), found.modified_s)
            place += 1
