"""Puts the newest report into the store, for whoever can read it and has no fedfs.

A report is no message: nothing depends on it, and one that fails is only logged.
"""

from __future__ import annotations

import logging

from fedfs.errors import FedfsError, ObjectExistsError
from fedfs.observe import Observer
from fedfs.protocol import layout, rounds
from fedfs.protocol.messages import utc
from fedfs.protocol.state import StudyState
from fedfs.publish import Clock
from fedfs.report.data import collect
from fedfs.report.html import render
from fedfs.store.base import Store

log = logging.getLogger(__name__)


class ReportPublisher:
    """Publishes a report when there is something new, and removes the one before.

    Args:
        observer: of the whole store, which follows scores; none of those that decide.
        store: the study's store.
        clock: POSIX seconds.
    """

    def __init__(self, observer: Observer, store: Store, *, clock: Clock) -> None:
        self._observer = observer
        self._store = store
        self._clock = clock
        self._n_messages = 0

    def publish(self) -> str:
        """Publish what is new; return whose final scores are still missing, in words, or ""."""
        try:
            state = self._look()
            if len(state.digests) != self._n_messages:
                self._put(layout.report(max(state.newest, 0), len(state.digests)))
                self._n_messages = len(state.digests)
        except FedfsError as error:
            log.warning("could not publish the report: %s", error)
            return ""
        if state.finished is None:
            return ""
        return ", ".join(s for s in rounds.participants(state) if not rounds.is_over(state, [s]))

    def _look(self) -> StudyState:
        """Look until nothing is new: where one message is to be sought, another one tells."""
        state, n_before = self._observer.refresh(), -1
        while len(state.digests) != n_before:
            n_before = len(state.digests)
            state = self._observer.refresh()
        return state

    def _put(self, key: str) -> None:
        before = [entry.key for entry in self._store.list(layout.REPORTS)]
        if before and max(before) >= key:
            return  # another aggregator's is newer
        page = render(
            collect(self._observer.state, self._observer.sizes), made_at=utc(self._clock())
        )
        try:
            self._store.create(key, page.encode())
        except ObjectExistsError:
            return  # made from the same, at another time
        for old in before:
            self._store.delete(old)
