"""Publication of the newest report in the store, for whoever can read it and has no fedfs.

A report is no message: nothing depends on it, and one that fails is only logged.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from fedfs.errors import FedfsError, ObjectExistsError
from fedfs.exchange.observer import Observer
from fedfs.exchange.publish import Clock
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import utc
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render, render_overview
from fedfs.roles.reader.report.overview import overview
from fedfs.store.base import Store

log = logging.getLogger(__name__)


class ReportPublisher:
    """Publishes a page when there is something new, and removes the one before.

    Args:
        store: the place of the page.
        refresh: reads what is new and returns the states that the page shows.
        render: makes the page of them.
    """

    def __init__(
        self,
        store: Store,
        refresh: Callable[[], Sequence[StudyState]],
        render: Callable[[Sequence[StudyState]], str],
    ) -> None:
        self._store = store
        self._refresh = refresh
        self._render = render
        self._n_messages = 0

    def publish(self) -> bool:
        """Publish what is new; return False if that failed, which the log tells."""
        try:
            states = self._refresh()
            n_messages = sum(len(state.digests) for state in states)
            if n_messages != self._n_messages:
                slowest = min(state.newest for state in states)
                key = layout.report(max(slowest, 0), n_messages)
                _replace(self._store, key, self._render(states))
                self._n_messages = n_messages
        except FedfsError as error:
            log.warning("the report was not published: %s", error)
            return False
        except Exception as error:
            log.warning("the report was not published: %r", error)
            log.debug("the report failed", exc_info=True)
            return False
        return True


def report_publisher(observer: Observer, store: Store, *, clock: Clock) -> ReportPublisher:
    """Return the publisher of a track's report.

    Args:
        observer: of the whole track, which follows scores; none of those that decide.
        store: the track's store.
        clock: POSIX seconds.
    """

    def refresh() -> list[StudyState]:
        # Until nothing is new: one message tells where another is to be sought.
        state, n_before = observer.refresh(), -1
        while len(state.digests) != n_before:
            n_before = len(state.digests)
            state = observer.refresh()
        return [state]

    def render_page(states: Sequence[StudyState]) -> str:
        return render(collect(states[0], observer.sizes), made_at=utc(clock()))

    return ReportPublisher(store, refresh, render_page)


def overview_publisher(
    observers: Mapping[str, Observer], foreign: Collection[str], store: Store, *, clock: Clock
) -> ReportPublisher:
    """Return the publisher of the page over all tracks.

    Args:
        observers: of each track by name, which follow scores.
        foreign: names of those that nobody else in this process refreshes.
        store: the study's store.
        clock: POSIX seconds.
    """

    def refresh() -> list[StudyState]:
        for name in foreign:
            observers[name].refresh()
        return [one.state for one in observers.values()]

    def render_page(states: Sequence[StudyState]) -> str:
        reports = {
            name: collect(state, observers[name].sizes)
            for name, state in zip(observers, states, strict=True)
        }
        links = {n: f"../../{one.track.prefix}{layout.REPORTS}" for n, one in observers.items()}
        return render_overview(overview(reports, states[0]), links, made_at=utc(clock()))

    return ReportPublisher(store, refresh, render_page)


def sites_without_final_scores(state: StudyState) -> list[str]:
    """Return the sites of a finished study whose last scores are still to come."""
    if state.finished is None:
        return []
    sites = participation.participants(state)
    return [site for site in sites if not participation.is_over(state, [site])]


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
