"""Parts of the charter that say who takes part: roster, and keys of those who may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfs.protocol.messages.base import Extra
from fedfs.protocol.values import SiteName, TrackName, Version

ACTIVE, PAUSED, REMOVED = ROSTER_STATES = ("active", "paused", "removed")
"""States of a site on the roster, set by the coordinator."""

ADMITTED = (ACTIVE, PAUSED)
"""States in which a site is believed."""


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """A site admitted to the study by the coordinator.

    Attributes:
        from_versions: of each track, the version from which on this key and this state count, 0
            if absent; messages about earlier ones are believed as the charters before say.
        encryption_key: public key of age, to which others encrypt; "" if it has none.
    """

    site: SiteName
    public_key: str
    state: str = "active"
    from_versions: Mapping[TrackName, Version] = field(default_factory=dict)
    encryption_key: str = ""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReadKey:
    """A key pair to whose public half models and plans are encrypted.

    Attributes:
        number: 1 for the first; the last one of a charter is in use.
        recipient: public half, of age.
        sealed_for: ``coordinator``, ``aggregator``, ``site-<name>`` -> base64 of the private half,
            encrypted for it.
    """

    number: int
    recipient: str
    sealed_for: Mapping[str, str]
    extra: Extra = field(default_factory=dict)
