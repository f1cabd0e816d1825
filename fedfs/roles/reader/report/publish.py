"""Puts the newest report into the store, for whoever can read it and has no fedfs.

A report is no message: nothing depends on it, and one that fails is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from fedfs.errors import FedfsError, ObjectExistsError
from fedfs.exchange.publish import Clock
from fedfs.exchange.read import Observer
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import utc
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render, render_overview
from fedfs.roles.reader.report.overview import overview
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
                page = render(collect(state, self._observer.sizes), made_at=utc(self._clock()))
                key = layout.report(max(state.newest, 0), len(state.digests))
                _replace(self._store, key, page)
                self._n_messages = len(state.digests)
        except FedfsError as error:
            log.warning("could not publish the report: %s", error)
            return ""
        if state.finished is None:
            return ""
        return ", ".join(
            s for s in participation.participants(state) if not participation.is_over(state, [s])
        )

    def _look(self) -> StudyState:
        """Look until nothing is new: where one message is to be sought, another one tells."""
        state, n_before = self._observer.refresh(), -1
        while len(state.digests) != n_before:
            n_before = len(state.digests)
            state = self._observer.refresh()
        return state


class OverviewPublisher:
    """Publishes the page over all tracks when there is something new on any.

    Args:
        observers: of each track by name, which follow scores.
        foreign: names of those that nobody else in this process looks at.
        store: the study's store.
        clock: POSIX seconds.
    """

    def __init__(
        self,
        observers: Mapping[str, Observer],
        foreign: Collection[str],
        store: Store,
        *,
        clock: Clock,
    ) -> None:
        self._observers = observers
        self._foreign = foreign
        self._store = store
        self._clock = clock
        self._n_messages = 0

    def publish(self) -> None:
        """Publish what is new."""
        try:
            for name in self._foreign:
                self._observers[name].refresh()
            states = {name: one.state for name, one in self._observers.items()}
            n_messages = sum(len(state.digests) for state in states.values())
            if n_messages == self._n_messages:
                return
            reports = {
                name: collect(state, self._observers[name].sizes) for name, state in states.items()
            }
            page = render_overview(
                overview(reports, next(iter(states.values()))),
                {name: f"../../{one.track.prefix}{layout.REPORTS}"
                 for name, one in self._observers.items()},
                made_at=utc(self._clock()),
            )  # fmt: skip
            slowest = min(state.newest for state in states.values())
            _replace(self._store, layout.report(max(slowest, 0), n_messages), page)
            self._n_messages = n_messages
        except FedfsError as error:
            log.warning("could not publish the overview: %s", error)


def _replace(store: Store, key: str, page: str) -> None:
    """Publish a page and remove those before it, unless there is a newer one."""
    before = [entry.key for entry in store.list(layout.REPORTS)]
    if before and max(before) >= key:
        return  # another aggregator's is newer
    try:
        store.create(key, page.encode())
    except ObjectExistsError:
        return  # made from the same, at another time
    for old in before:
        store.delete(old)
