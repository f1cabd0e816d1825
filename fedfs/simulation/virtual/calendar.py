"""Times at which a site computes, has a line to the store, and sees its courier."""

import math
import random
from collections.abc import Iterator, Sequence

from fedfs.simulation.virtual.trace import SiteTrace, Span

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
_THURSDAY = 3
"""Day of the week on which POSIX time begins."""


class Hours:
    """Times at which a site may compute: in its hours of the day, outside of its outages."""

    def __init__(self, site: SiteTrace, start_s: float) -> None:
        self._daily = [(HOUR_S * begin, HOUR_S * end) for begin, end in site.compute_hours]
        self._outages = outages_of(site, start_s)

    def is_open(self, now_s: float) -> bool:
        """Return whether the site computes."""
        day_s = now_s % DAY_S
        is_hour = not self._daily or any(_is_within(day_s, span) for span in self._daily)
        return is_hour and not any(begin <= now_s < end for begin, end in self._outages)

    def next_change(self, now_s: float) -> float:
        """Return the next time at which it may begin or stop."""
        midnight_s = now_s - now_s % DAY_S
        edges = [edge for span in self._outages for edge in span]
        for edge in (edge for span in self._daily for edge in span):
            edges += [midnight_s + edge, midnight_s + DAY_S + edge]
        return min((edge for edge in edges if edge > now_s), default=math.inf)

    def after(self, now_s: float, work_s: float) -> float:
        """Return when work that begins now is done."""
        while True:
            change_s = self.next_change(now_s)
            if self.is_open(now_s):
                if change_s - now_s >= work_s:
                    return now_s + work_s
                work_s -= change_s - now_s
            now_s = change_s


class Line:
    """Times at which a site reaches the store: between drops of its line, outside of its outages.

    Drops follow from the site's name.
    """

    def __init__(self, name: str, site: SiteTrace, start_s: float) -> None:
        self._outages = outages_of(site, start_s)
        self._drops = _drops(name, site, start_s)
        self._known: list[Span] = []

    def is_up(self, now_s: float) -> bool:
        """Return whether the store can be reached."""
        return self.back_at(now_s) <= now_s

    def back_at(self, now_s: float) -> float:
        """Return from when on the store can be reached; now, if it can."""
        while True:
            later = [end for begin, end in self._spans(now_s) if begin <= now_s < end]
            if not later:
                return now_s
            now_s = max(later)

    def next_drop(self, now_s: float) -> float:
        """Return when a line that is up goes down."""
        self._known = [span for span in self._known if span[1] > now_s]  # time only goes on
        begins = [begin for begin, _ in self._spans(now_s) if begin > now_s]
        return min(begins, default=math.inf)

    def _spans(self, now_s: float) -> Sequence[Span]:
        while not self._known or self._known[-1][0] <= now_s:
            drop = next(self._drops, None)
            if drop is None:
                break
            self._known.append(drop)
        return [*self._outages, *self._known]


class Courier:
    """Visits of a courier, who brings what is on the store and takes what the site has written."""

    def __init__(self, site: SiteTrace) -> None:
        self._days = site.courier_days
        self._at_s = site.courier_hour * HOUR_S

    def last(self, now_s: float) -> float:
        """Return when he was here; a time long ago if never."""
        return max((t for t in self._visits(now_s, range(-8, 1)) if t <= now_s), default=-math.inf)

    def next(self, now_s: float) -> float:
        """Return when he comes."""
        return min(t for t in self._visits(now_s, range(9)) if t > now_s)

    def _visits(self, now_s: float, days: range) -> Iterator[float]:
        today = int(now_s // DAY_S)
        for day in (today + offset for offset in days):
            if (day + _THURSDAY) % 7 in self._days:
                yield day * DAY_S + self._at_s


def outages_of(site: SiteTrace, start_s: float) -> list[Span]:
    """Return the outages of a site in POSIX seconds."""
    return [(start_s + HOUR_S * begin, start_s + HOUR_S * end) for begin, end in site.outages]


def _drops(name: str, site: SiteTrace, start_s: float) -> Iterator[Span]:
    rng, now_s = random.Random(name), start_s  # noqa: S311  no secret
    while site.minutes_between_drops[1] > 0:
        begin_s = now_s + MINUTE_S * rng.uniform(*site.minutes_between_drops)
        now_s = begin_s + MINUTE_S * rng.uniform(*site.minutes_per_drop)
        yield begin_s, now_s


def _is_within(day_s: float, span: Span) -> bool:
    begin, end = span
    return begin <= day_s < end if begin < end else day_s >= begin or day_s < end
