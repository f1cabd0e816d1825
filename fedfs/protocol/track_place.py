"""Place of a track on the store: its own objects, and those that it shares with the other tracks.

A study has one track or several. What it has once (:data:`SHARED`) lies on the store under the key
that :mod:`fedfs.protocol.layout` makes; all else lies beneath ``tracks/<track>/``::

    sites/north/fingerprint-0001.json
    tracks/2d-0/sites/north/updates/00007/manifest.json

Whoever works on a track, and the messages there, use the keys without ``tracks/<track>/``. A
message of a track names the track beside the study.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfs.protocol.layout import SITES, Key, parse
from fedfs.protocol.messages import ASYM, Charter
from fedfs.protocol.values import TRACK

TRACKS = "tracks/"

SHARED = frozenset(
    {
        "charter",
        "pretrained",
        "given-model",
        "join",
        "helper-join",
        "fingerprint",
        "plan",
        "cross-validation",
        "choice",
    }
)
"""Kinds of key that a study has once, whatever its tracks; but in the mode ``asym`` each track has
a plan of its own."""


@dataclass(frozen=True)
class TrackPlace:
    """Place of a track.

    Attributes:
        name: of the track.
        own_plan: the plan is the track's own, and not the study's (mode ``asym``).
    """

    name: str
    own_plan: bool = False

    @classmethod
    def of(cls, charter: Charter, name: str | None = None) -> TrackPlace:
        """Return the place of a track of a study; of the first one, unless it is named."""
        return cls(name or charter.tracks[0].name, own_plan=charter.mode == ASYM)

    @property
    def prefix(self) -> str:
        """Prefix on the store of all that is the track's own."""
        return f"{TRACKS}{self.name}/"

    def is_shared(self, key: str) -> bool:
        """Return whether the object under a key of this track is the whole study's."""
        parsed = parse(key)
        if parsed is None or parsed.kind not in SHARED:
            return False
        return not (self.own_plan and parsed.kind == "plan")

    def on_store(self, key: str) -> str:
        """Return the key on the store of a key of this track."""
        return key if self.is_shared(key) else f"{self.prefix}{key}"

    def study(self, study: str, key: str) -> str:
        """Return what a message under a key names as its study: the study, or this track of it."""
        return study if self.is_shared(key) else f"{study}/{self.name}"


def split_track(text: str) -> tuple[str | None, str]:
    """Return the track that a key of the store lies beneath, None if none, and the key there."""
    if not text.startswith(TRACKS):
        return None, text
    track, _, key = text.removeprefix(TRACKS).partition("/")
    return track, key


def parse_on_store(text: str) -> Key | None:
    """Parse a key of the store; :attr:`Key.text` is without the track.

    None for anything that is not named, or that does not belong where it is.
    """
    track, within = split_track(text)
    key = parse(within)
    if key is None or (track is None and key.kind not in SHARED):
        return None
    if track is not None and (track not in TRACK or key.kind in SHARED - {"plan"}):
        return None
    return key


def may_hold_shared(prefix: str) -> bool:
    """Return whether keys of kinds that tracks share may begin with a prefix: none lies deeper."""
    depth = 2 if prefix.startswith(SITES) else 1
    return prefix.count("/") <= depth
