"""Objects on a store that were refused, and what would be worth another look at them.

Rules:
 * A refused object is not downloaded again as long as nothing can change the answer: the object
   itself, and what the error names (:attr:`fedfs.errors.RejectedError.stands_until`).
 * What other messages may explain is kept, up to :data:`MAX_KEPT_BYTES` of all together. Only
   members of the study can put more there, as it has to be signed.
"""

import bisect
import logging
from collections.abc import Collection
from dataclasses import dataclass

from fedfs.errors import RejectedError, StandsUntil
from fedfs.protocol.areas import Area
from fedfs.protocol.state import StudyState
from fedfs.store.base import Entry

MAX_KEPT_BYTES = 32 << 20
_MAX_WATCHED = 64
_MAX_TOLD = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Refusal:
    entry: Entry
    reason: str
    until: StandsUntil
    n_charters: int
    n_messages: int
    data: bytes | None


class Refusals:
    """Refused objects of a track, as they were when they were refused."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Refusal] = {}
        self._keys: list[str] = []  # ascending
        self._n_kept = 0
        self._n_charters = self._n_told = 0

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def add(
        self, entry: Entry, error: RejectedError, state: StudyState, data: bytes | None
    ) -> None:
        """Note that an object was refused; the log tells of the first ones.

        Args:
            entry: the object as the store listed it.
            error: why.
            state: what had been accepted by then.
            data: its bytes; None where they were not read.
        """
        if entry.key not in self:
            self._tell_log(error)
        self.forget(entry.key)
        if data is not None and (
            error.stands_until != "message" or self._n_kept + len(data) > MAX_KEPT_BYTES
        ):
            data = None
        self._n_kept += len(data or b"")
        bisect.insort(self._keys, entry.key)
        self._by_key[entry.key] = _Refusal(
            entry, error.reason, error.stands_until, len(state.charters), len(state.digests), data
        )

    def _tell_log(self, error: RejectedError) -> None:
        self._n_told += 1
        if self._n_told <= _MAX_TOLD:
            log.warning("%s The message is ignored.", error)
        if self._n_told == _MAX_TOLD:
            log.warning("further messages are ignored; fedfs status names them")

    def forget(self, key: str) -> None:
        """Forget an object, if it was refused."""
        refusal = self._by_key.pop(key, None)
        if refusal is not None:
            self._n_kept -= len(refusal.data or b"")
            del self._keys[bisect.bisect_left(self._keys, key)]

    def keep_only(self, keys: Collection[str]) -> None:
        """Forget what is not on the store any more."""
        for key in [key for key in self._by_key if key not in keys]:
            self.forget(key)

    def stands(self, entry: Entry, state: StudyState) -> bool:
        """Return whether an object was refused, and would be again."""
        refusal = self._by_key.get(entry.key)
        if refusal is None or refusal.entry != entry:
            return False
        match refusal.until:
            case "message":
                return len(state.digests) == refusal.n_messages
            case "charter":
                return len(state.charters) == refusal.n_charters
            case "change":
                return True

    def data(self, entry: Entry) -> bytes | None:
        """Return the bytes of an object that was refused before, if it is as it was."""
        refusal = self._by_key.get(entry.key)
        return refusal.data if refusal is not None and refusal.entry == entry else None

    def tell(self, state: StudyState) -> None:
        """Enter again what a new charter has cleared: it is refused all the same."""
        if len(state.charters) != self._n_charters:
            self._n_charters = len(state.charters)
            for key, refusal in self._by_key.items():
                state.rejected.setdefault(key, refusal.reason)

    def widen(self, area: Area) -> Area:
        """Begin an area early enough to see what was refused there: it may have been replaced.

        A flood of such objects is only seen again by a look at everything.
        """
        first = bisect.bisect_left(self._keys, area.prefix)
        n_here = bisect.bisect_right(self._keys, area.after) - first
        if not 0 < n_here <= _MAX_WATCHED:
            return area
        return Area(area.prefix, self._keys[first][:-1], area.until)
