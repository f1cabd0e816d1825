"""One track of a study in memory, behind the back of the store's rules."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from fedfs.protocol.track_place import TrackPlace
from fedfs.store.memory import MemoryStore
from fedfs.store.prefix import TrackStore


class TrackObjects(MutableMapping[str, Any]):
    """The objects of a memory store that a track shows, by the track's keys."""

    def __init__(self, store: MemoryStore, track: TrackPlace) -> None:
        self._store = store
        self._track = track

    def __getitem__(self, key: str) -> Any:
        return self._store.objects[self._track.on_store(key)]

    def __setitem__(self, key: str, found: Any) -> None:
        self._store.objects[self._track.on_store(key)] = found

    def __delitem__(self, key: str) -> None:
        del self._store.objects[self._track.on_store(key)]

    def __iter__(self) -> Iterator[str]:
        for key in list(self._store.objects):
            within = key.removeprefix(self._track.prefix)
            if self._track.on_store(within) == key:
                yield within

    def __len__(self) -> int:
        return sum(1 for _ in self)


class OneTrack(TrackStore):
    """A track of a memory store, with its objects."""

    @property
    def objects(self) -> TrackObjects:
        assert isinstance(self._inner, MemoryStore)
        return TrackObjects(self._inner, self.track)
