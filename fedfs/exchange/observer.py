"""Read new objects from a store and pass them to the ``TrustedView``.

Rules:
 * Objects are written once, so what was accepted is never read again. What was refused is tried
   again when it changed, or when something was accepted that may explain it
   (:mod:`fedfs.exchange.refusals`).
 * A look lists only where something can be new that matters now (:mod:`fedfs.protocol.areas`). The
   first look, and every 256th, lists everything.
 * What this process has published itself it knows without looking. What a site has published and
   a look at everything does not show, the store has lost: the site starts anew from what is there.
"""

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fedfs.errors import (
    MalformedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    RejectedError,
    StoreError,
    StorePermissionError,
)
from fedfs.exchange.refusals import Refusals
from fedfs.protocol import areas, layout
from fedfs.protocol.areas import Area
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import MAX_BYTES
from fedfs.protocol.order import rank
from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import TrackPlace
from fedfs.store.base import Entry, ReadableStore
from fedfs.store.local_files import write_local
from fedfs.trust.recipients import Vault
from fedfs.trust.verify import TrustedView

log = logging.getLogger(__name__)

MAX_ENVELOPE_BYTES = MAX_BYTES * 4 // 3 + 4096
"""Largest object that holds a message: its payload is in base64, four bytes for three."""

_EVERYTHING_EVERY = 256
_MANY, _BATCH = 8, 16
_SMALL_BYTES = 1 << 20

_T = TypeVar("_T")
_R = TypeVar("_R")


class Observer:
    """Keeps a :class:`TrustedView` up to date with a store.

    Args:
        store: shows the track that is looked at.
        view: what to feed, of that track.
        site: the site that looks, which then sees only its own, or
            :data:`~fedfs.protocol.areas.NO_SITE`; None sees all.
        skip: kinds of messages that the caller has no use for.
        cache: folder for copies of accepted messages, so that a process that starts often does
            not fetch them all again; they are verified like any other.
        vault: what this host can decrypt.
        scores: also look for new scores of all sites, which no decision needs.

    Attributes:
        store: where this looks.
        site: as above.
        keys: all keys seen so far.
        sizes: key -> bytes, of what was seen since the last look at everything.
        on_accepted: called after each look, and after each message of this process itself.
    """

    def __init__(
        self,
        store: ReadableStore,
        view: TrustedView,
        *,
        site: str | None = None,
        skip: Iterable[str] = (),
        cache: Path | None = None,
        vault: Vault | None = None,
        scores: bool = False,
    ) -> None:
        self.vault = vault
        self._scores = scores
        self.store = store
        self._view = view
        self.site = site
        # Where nothing is trained, or scores are masked, they are what is decided by.
        charter = view.state.charter
        by_scores = {"evaluation"} if charter.evaluates or charter.secure_scores else set()
        self._skip = frozenset(skip) - by_scores
        self._cache = cache
        self._refusals = Refusals()
        self._n_looks = 0
        self.keys: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.on_accepted: Callable[[], None] = lambda: None

    @property
    def track(self) -> TrackPlace:
        """The track that this observer looks at."""
        return self._view.track

    @property
    def state(self) -> StudyState:
        """Accepted messages so far."""
        return self._view.state

    def refresh(self, *, everything: bool = False) -> StudyState:
        """Read what is new and return the accepted state.

        Args:
            everything: list the whole of what this observer may see, also where nothing new that
                matters is to be expected.

        Raises:
            StoreError: the store cannot be read.
        """
        everything = everything or self._n_looks % _EVERYTHING_EVERY == 0
        self._n_looks += 1
        entries: dict[str, tuple[Key, Entry]] = {}
        areas_now = self._areas(everything=everything)
        for listed in self._each(self._list, areas_now):
            for entry in listed:
                key = layout.parse(entry.key)
                if key is None:
                    continue
                entries[entry.key] = (key, entry)
                if key.kind == "model" and not everything:
                    self._add_record(key, entry, entries)
        if everything:
            self.keys, self.sizes = set(), {}
            self._refusals.keep_only(entries)
        self.sizes.update((text, entry.size) for text, (_, entry) in entries.items())
        self.keys |= set(entries)
        wanted = [pair for pair in entries.values() if self._wants(*pair)]
        ordered = _newest_statuses(sorted(wanted, key=lambda pair: rank(pair[0])))
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            at_once = all(entry.size <= _SMALL_BYTES for _, entry in batch)
            found = self._each(self._fetch, batch) if at_once else map(self._fetch, batch)
            for (key, entry), data in zip(batch, found, strict=True):
                self._read(key, entry, data)
        if everything and (lost := self._lost()):
            log.warning("the store has lost %s: it is published again", ", ".join(lost))
            self._view, self._refusals = self._view.anew(), Refusals()
            return self.refresh(everything=True)
        self._refusals.tell(self._view.state)
        self.on_accepted()
        return self._view.state

    def payloads(self) -> Iterator[Entry]:
        """Yield the payloads that this observer may see, by key.

        Raises:
            StoreError: the store cannot be read.
        """
        for area in self._areas(everything=True):
            for entry in self.store.list(area.prefix):
                key = layout.parse(entry.key)
                if key is not None and key.is_payload:
                    yield entry

    def note(self, key_text: str, data: bytes) -> None:
        """Take note of a message that this process has just published."""
        key = layout.parse(key_text)
        self.keys.add(key_text)
        if key is not None and key.kind not in self._skip and self._view.wants(key):
            with contextlib.suppress(RejectedError):  # the view remembers why
                self._view.add(key, data)
                self._keep_copy(key, data)
        self.on_accepted()

    def refuse_foreign(self, error: ObjectExistsError, *, writer: str) -> None:
        """Look again at a key that was taken; return if what lies there is ``writer``'s own.

        Raises:
            StoreError: it is not: somebody else can write there.
        """
        refused = self.refresh(everything=True).rejected
        if error.key in {self.track.on_store(key) for key in refused}:
            raise StoreError(
                f"{error.key} holds something that {writer} did not publish.",
                hint="somebody else can write there: remove the object, check who may write",
            ) from error

    def _lost(self) -> list[str]:
        """Return messages of the site that looks which were accepted and are not there any more."""
        own = layout.site_prefix(self.site) if self.site else None
        missing = [
            key
            for key in self.state.digests
            if own and key.startswith(own) and key not in self.keys and "/status/" not in key
        ]
        return [key for key in missing if not self._is_there(key)]

    def _is_there(self, key: str) -> bool:
        try:  # a listing may be late
            self.store.get(key, max_bytes=MAX_ENVELOPE_BYTES)
        except (ObjectNotFoundError, StorePermissionError):  # policies deny what is missing
            return False
        return True

    def _each(self, function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
        """Yield what a function makes of each item, in order; of many, as many at once as pays."""
        if len(items) < _MANY or self.store.at_once == 1:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(self.store.at_once) as pool:
            yield from pool.map(function, items)

    def _areas(self, *, everything: bool) -> list[Area]:
        if everything:
            return areas.everywhere(self.state, self.site)
        worth = areas.worth_a_look(self.state, self.site, skip=self._skip, scores=self._scores)
        return [self._refusals.widen(area) for area in worth]

    def _list(self, area: Area) -> list[Entry]:
        entries = self.store.list(area.prefix, after=area.after)
        return list(itertools.takewhile(lambda entry: entry.key <= area.until, entries))

    def _add_record(self, model: Key, entry: Entry, entries: dict[str, tuple[Key, Entry]]) -> None:
        """Look at the record that a new model follows from, which is there if the model is."""
        text = layout.round_record(model.version or 0)
        key = layout.parse(text)
        if key is not None and self._view.wants(key):
            entries[text] = (key, Entry(text, 0, entry.modified_s))

    def _wants(self, key: Key, entry: Entry) -> bool:
        if key.kind in self._skip or not self._view.wants(key):
            return False
        if key.is_status:
            newest = self.state.statuses.get(key.writer)
            if newest is not None and newest.key >= key.text:
                return False
        return not self._refusals.stands(entry, self.state)

    def _fetch(self, wanted: tuple[Key, Entry]) -> bytes | RejectedError | None:
        """Return what lies under a key, from the cache if it is there; None if nothing does."""
        key, entry = wanted
        if (kept := self._refusals.data(entry)) is not None:
            return kept
        copy = self._copy(key)
        if copy is not None and copy.exists():
            return copy.read_bytes()
        try:
            return self.store.get(key.text, max_bytes=MAX_ENVELOPE_BYTES)
        except ObjectNotFoundError:
            return None  # pruned, or not visible yet: the next look tells
        except ObjectTooLargeError:  # stores see it before they read
            fault = "is larger than any message may be"
            return MalformedError(fault).standing_until("change")

    def _read(self, key: Key, entry: Entry, data: bytes | RejectedError | None) -> None:
        if data is None:
            return
        try:
            if isinstance(data, RejectedError):
                raise data
            self._view.add(key, data)
        except RejectedError as error:
            copy = self._copy(key)
            if copy is not None and copy.exists():  # a wrong copy: the store decides
                copy.unlink(missing_ok=True)
                del self._view.state.rejected[key.text]
                self._read(key, entry, self._fetch((key, entry)))
                return
            self._view.state.rejected[key.text] = error.under(key.text).reason
            self._refusals.add(entry, error, self.state, data if isinstance(data, bytes) else None)
        else:
            self._refusals.forget(key.text)
            self._keep_copy(key, data)

    def _copy(self, key: Key) -> Path | None:
        if self._cache is None or key.is_status:
            return None
        return self._cache / hashlib.sha256(key.text.encode()).hexdigest()

    def _keep_copy(self, key: Key, data: bytes) -> None:
        copy = self._copy(key)
        if copy is not None and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_local(copy, iter([data]))


def _newest_statuses(wanted: list[tuple[Key, Entry]]) -> list[tuple[Key, Entry]]:
    """Leave out statuses that a newer one of the same writer supersedes."""
    newest = {(key.kind, key.site): key.text for key, _ in wanted if key.is_status}
    return [
        pair
        for pair in wanted
        if newest.get((pair[0].kind, pair[0].site), pair[0].text) == pair[0].text
    ]
