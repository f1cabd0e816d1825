"""A track of a study as a store of its own, whose keys are without ``tracks/<track>/``."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedfs.protocol import layout, track_place
from fedfs.protocol.track_place import TrackPlace
from fedfs.store.base import Entry, ReadableStore, Store
from fedfs.store.wrapper import Wrapper


class TrackReader(ReadableStore):
    """Shows one track: its own objects, and those that the whole study shares.

    Args:
        inner: the study's store.
        track: the track.
    """

    def __init__(self, inner: ReadableStore, track: TrackPlace) -> None:
        self.url = inner.url
        self.track = track
        self._inner = inner

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.ReadableStore.get`."""
        return self._inner.get(self.track.on_store(key), max_bytes=max_bytes)

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.ReadableStore.download`."""
        self._inner.download(self.track.on_store(key), path, max_bytes=max_bytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.ReadableStore.list`."""
        own, shared = self._own(prefix, after), self._shared(prefix, after)
        return heapq.merge(own, shared, key=lambda entry: entry.key)

    def _own(self, prefix: str, after: str) -> Iterator[Entry]:
        if prefix == layout.FEDERATION:
            return
        behind = self.track.prefix
        for entry in self._inner.list(behind + prefix, after=behind + after if after else ""):
            key = entry.key.removeprefix(behind)
            if not self.track.is_shared(key):
                yield replace(entry, key=key)

    def _shared(self, prefix: str, after: str) -> Iterator[Entry]:
        if not track_place.may_hold_shared(prefix):
            return
        for entry in self._inner.list(prefix, after=after):
            if self.track.is_shared(entry.key):
                yield entry


class TrackStore(Wrapper):
    """Shows one track as :class:`TrackReader`, and publishes there.

    Args:
        inner: the study's store.
        track: the track.
    """

    def __init__(self, inner: Store, track: TrackPlace) -> None:
        super().__init__(inner)
        self.track = track
        self._reader = TrackReader(inner, track)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.ReadableStore.get`."""
        return self._reader.get(key, max_bytes=max_bytes)

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.ReadableStore.download`."""
        self._reader.download(key, path, max_bytes=max_bytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.ReadableStore.list`."""
        return self._reader.list(prefix, after=after)

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return super().create(self.track.on_store(key), data)

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        return super().upload(self.track.on_store(key), path)

    def adopt(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.adopt`."""
        return super().adopt(self.track.on_store(key), path)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        super().delete(self.track.on_store(key))
