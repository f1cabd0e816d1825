"""Steps that roles have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedfs.exchange.choose_configuration import active_tracks
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import Observer

AFTER_TRACKS = "choice"
"""Name of the worker behind all tracks, where tracks have theirs."""


class AfterTracks:
    """A worker behind all tracks, which keeps nothing in memory between two steps."""

    version = -1

    def __init__(
        self,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
    ) -> None:
        self._observer = observer
        self._all_tracks = tracks
        publisher.on_message = observer.note
        self._publisher = publisher
        self._status = status
        self.on_work: Callable[[], None] = lambda: None

    @property
    def _tracks(self) -> Mapping[str, Observer]:
        return active_tracks(self._all_tracks)

    def rest(self) -> None:
        """See :meth:`fedfs.roles.tracks.Worker.rest`."""
