"""A track of a study as a store of its own, whose keys are without ``tracks/<track>/``."""

import heapq
from collections.abc import Iterator

from fedfs.protocol import layout, track_place
from fedfs.protocol.track_place import TrackPlace
from fedfs.store.base import Entry, ReadableStore, Store
from fedfs.store.wrapper import ReadableWrapper, Wrapper


class TrackReader(ReadableWrapper):
    """Shows one track: its own objects, and those that the whole study shares.

    Args:
        inner: the study's store.
        track: the track.
    """

    def __init__(self, inner: ReadableStore, track: TrackPlace) -> None:
        super().__init__(inner)
        self.track = track

    def _inner_key(self, key: str) -> str:
        return self.track.on_store(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.ReadableStore.list`."""
        own = self._own(prefix, after)
        if not track_place.may_hold_shared(prefix):
            return own
        shared = self._shared(prefix, after)
        return heapq.merge(own, shared, key=lambda entry: entry.key)

    def _own(self, prefix: str, after: str) -> Iterator[Entry]:
        if prefix == layout.FEDERATION:
            return
        behind = self.track.prefix
        for entry in self._inner.list(behind + prefix, after=behind + after if after else ""):
            key = entry.key.removeprefix(behind)
            if not self.track.is_shared(key):
                yield Entry(key, entry.size, entry.modified_s)

    def _shared(self, prefix: str, after: str) -> Iterator[Entry]:
        for entry in self._inner.list(prefix, after=after):
            if self.track.is_shared(entry.key):
                yield entry


class TrackStore(TrackReader, Wrapper):
    """Shows one track as :class:`TrackReader`, and publishes there."""

    def __init__(self, inner: Store, track: TrackPlace) -> None:
        super().__init__(inner, track)
