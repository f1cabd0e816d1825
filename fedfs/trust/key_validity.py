"""Keys and the versions that each of them signs for, read off the charters, old and new.

Rules:
 * An amendment of the charter takes effect at a version: it says from which one on a site's key or
   state counts, or the aggregator's or the helper's key.
 * The key before it counts for earlier versions, so that what it signed stays believed; where one
   key replaces another, for that version too, which the site may have begun.
 * Of a site that is removed nothing counts from that version on.

Pure: without I/O and without a clock.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedfs.protocol.messages import ADMITTED, TrackCharter


@dataclass(frozen=True)
class Tenure:
    """A key and the versions that it signs for.

    Attributes:
        public_key: base64.
        first: the first version.
        last: the last one; None while it is in force.
    """

    public_key: str
    first: int
    last: int | None = None

    def covers(self, version: int) -> bool:
        """Return whether this key signs for a version."""
        return self.first <= version and (self.last is None or version <= self.last)


def of_site(charters: Mapping[int, TrackCharter], site: str) -> tuple[Tenure, ...]:
    """Return the keys that a site has had, the newest last; empty if it was never admitted."""
    steps = []
    for number in sorted(charters):
        charter = charters[number]
        entry = charter.entry(site)
        if entry is not None:
            key = entry.public_key if entry.state in ADMITTED else ""
            steps.append((key, charter.from_version(entry)))
    return _tenures(steps)


def of_aggregator(charters: Mapping[int, TrackCharter]) -> tuple[Tenure, ...]:
    """Return the keys that the aggregator has had, the newest last."""
    ordered = [charters[number] for number in sorted(charters)]
    return _tenures((c.aggregator_key, c.aggregator_from_version) for c in ordered)


def of_helper(charters: Mapping[int, TrackCharter]) -> tuple[Tenure, ...]:
    """Return the keys that helpers of secure sums have had, the newest last; empty if none."""
    steps = []
    for number in sorted(charters):
        charter = charters[number]
        if charter.secure_sums is not None:
            first = charter.secure_sums.helper_from_versions.get(charter.track.name, 0)
            steps.append((charter.secure_sums.helper_key, first))
    return _tenures(steps)


def of_role(charters: Mapping[int, TrackCharter], role: str) -> tuple[Tenure, ...]:
    """Return the keys of ``aggregator``, ``helper`` or ``site-<name>``, the newest last."""
    if role == "aggregator":
        return of_aggregator(charters)
    if role == "helper":
        return of_helper(charters)
    return of_site(charters, role.removeprefix("site-"))


def in_force(tenures: Sequence[Tenure], version: int) -> str:
    """Return the public key that signs what is about a version; "" if nobody may."""
    return next((one.public_key for one in reversed(tenures) if one.covers(version)), "")


def _tenures(steps: Iterable[tuple[str, int]]) -> tuple[Tenure, ...]:
    """Return tenures from (key or "" for nobody, first version), in the order of the charters."""
    out: list[Tenure] = []
    for key, first in steps:
        current = out[-1] if out and out[-1].last is None else None
        if current is not None and current.public_key == key:
            continue
        if current is not None:
            out[-1] = dataclasses.replace(current, last=first if key else first - 1)
        if key:
            out.append(Tenure(key, first))
    return tuple(out)
