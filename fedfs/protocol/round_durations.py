"""Durations of each site's own rounds, as round records tell them, and when an update is expected.

Rules:
 * A site's round begins when it can: the version is there, and its update before has arrived. It
   ends when the aggregator sees the update. So whatever makes a site slow is in it: training, its
   line, a courier, nights.
 * An update is expected for as long as the longest of the site's last rounds took, times a factor.
   A site that is slow as always is waited for. One that is gone is waited for once; after that its
   round has begun too long ago, until it answers again.
 * All times are the aggregator's. The estimates follow from the records before a round alone, so
   that whoever checks the study makes them again.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedfs.protocol.messages import RoundRecord, from_utc

N_REMEMBERED = 10
"""Rounds of a site that count: one that was long for once is forgotten after so many."""


@dataclass
class _Site:
    durations_s: list[float] = field(default_factory=list)
    last_s: float = -math.inf
    last_base: int = -1


class RoundDurations:
    """Durations in the records of a study, read once each."""

    def __init__(self) -> None:
        self._opened_s: list[float] = []
        self._sites: dict[str, _Site] = {}

    def read(self, rounds: Mapping[int, RoundRecord]) -> None:
        """Take note of records that are new, in the order of their versions."""
        while len(self._opened_s) in rounds:
            record = rounds[len(self._opened_s)]
            self._opened_s.append(from_utc(record.created_at))
            for used in record.updates:
                if used.arrived_s is not None:
                    site = self._sites.setdefault(used.site, _Site())
                    opened_s = self._opened_s[used.base_version]
                    arrived_s = opened_s + used.arrived_s
                    site.durations_s.append(arrived_s - max(opened_s, site.last_s))
                    del site.durations_s[:-N_REMEMBERED]
                    site.last_s, site.last_base = arrived_s, used.base_version

    def estimates(self, sites: Collection[str], factor: float) -> dict[str, float]:
        """Return site -> seconds within which its update is expected, of those that are known."""
        return {
            site: round(factor * max(0.0, *self._sites[site].durations_s), 1)
            for site in sorted(sites)
            if site in self._sites
        }

    def expected_until(
        self, site: str, estimates: Mapping[str, float], seen: tuple[int, float] | None
    ) -> float:
        """Return until when the update of a site that has not answered is expected.

        Args:
            site: its name.
            estimates: see :meth:`estimates`; a site that is not among them is expected for ever.
            seen: base version of its newest update that waits, and when that arrived; or None.
        """
        if site not in estimates:
            return math.inf
        known = self._sites[site]
        base, last_s = max((known.last_base, known.last_s), seen or (-1, -math.inf))
        begins = min(base + 1, len(self._opened_s) - 1)
        return max(last_s, self._opened_s[begins]) + estimates[site]
