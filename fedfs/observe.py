"""Look at the store: list, get what is new, hand it to the view that decides what to believe.

A site looks at what is its own and at what the federation and the aggregator publish; it cannot and
need not read other sites. Objects are written once, so what was accepted is never read again. What
was refused is read again when it changed or when something else was accepted since, because the one
may explain the other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from fedfs.errors import (
    MisplacedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    RejectedError,
    StoreError,
    StudyError,
    TensorError,
)
from fedfs.protocol import layout
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import MAX_BYTES, Charter, PayloadRef
from fedfs.protocol.state import StudyState
from fedfs.store.base import Entry, Store
from fedfs.trust.verify import TrustedView

log = logging.getLogger(__name__)

MAX_MODEL_BYTES = 32 * 2**30
"""Largest model anybody downloads; nnU-Net's largest presets are well below 2 GB."""

# Envelopes carry the payload in base64, four bytes for three.
_MAX_ENVELOPE_BYTES = MAX_BYTES * 4 // 3 + 4096

# What a message may refer to is read before it.
_ORDER = (
    "charter", "join", "fingerprint", "site-plan", "plan", "round", "model", "update", "evaluation",
    "failure", "status", "aggregator-status", "finished",
)  # fmt: skip


class Observer:
    """Keeps a :class:`TrustedView` up to date with a store.

    Args:
        store: where to look.
        view: what to feed.
        site: the site that looks, which then sees only its own; None sees all.
        skip: kinds of messages that the caller has no use for.
    """

    def __init__(
        self, store: Store, view: TrustedView, *, site: str | None = None, skip: Iterable[str] = ()
    ) -> None:
        self._store = store
        self._view = view
        self._prefixes = (
            layout.FEDERATION,
            layout.AGGREGATOR,
            layout.SITES if site is None else layout.site_prefix(site),
        )
        self._skip = frozenset(skip)
        self._refused: dict[str, tuple[Entry, int]] = {}
        self.keys: set[str] = set()

    @property
    def state(self) -> StudyState:
        """What has been accepted so far."""
        return self._view.state

    def refresh(self) -> StudyState:
        """Read what is new and return the accepted state.

        Raises:
            StoreError: the store cannot be read.
        """
        entries: dict[str, tuple[Key, Entry]] = {}
        for prefix in self._prefixes:
            for entry in self._store.list(prefix):
                key = layout.parse(entry.key)
                if key is not None:
                    entries[entry.key] = (key, entry)
        self.keys = set(entries)
        wanted = [pair for pair in entries.values() if self._wants(*pair)]
        for key, entry in _newest_statuses(sorted(wanted, key=lambda pair: _rank(pair[0]))):
            self._read(key, entry)
        return self._view.state

    def refuse_foreign(self, error: ObjectExistsError, *, writer: str) -> None:
        """Look again at a key that was taken; return if what lies there is ``writer``'s own.

        Raises:
            StoreError: it is not: somebody else can write there.
        """
        key = next((k for k in sorted(self.refresh().rejected) if k in str(error)), None)
        if key is not None:
            raise StoreError(
                f"{key} holds something that {writer} did not publish",
                hint="somebody else can write there: remove the object, check who may write",
            ) from error

    def _wants(self, key: Key, entry: Entry) -> bool:
        if key.kind in self._skip or not self._view.wants(key):
            return False
        return self._refused.get(key.text) != (entry, len(self._view.state.digests))

    def _read(self, key: Key, entry: Entry) -> None:
        try:
            try:
                data = self._store.get(key.text, max_bytes=_MAX_ENVELOPE_BYTES)
            except ObjectNotFoundError:
                return  # pruned, or not visible yet: the next look tells
            except ObjectTooLargeError as error:
                raise TensorError("is larger than any message may be") from error
            self._view.add(key, data)
        except RejectedError as error:
            first = key.text not in self._refused
            self._view.state.rejected[key.text] = str(error)
            self._refused[key.text] = (entry, len(self._view.state.digests))
            if first:
                log.warning("ignored %s: it %s", key.text, error)
        else:
            self._refused.pop(key.text, None)


def _rank(key: Key) -> tuple[int, int, str]:
    return (_ORDER.index(key.kind), key.version or key.number or 0, key.text)


def _newest_statuses(wanted: list[tuple[Key, Entry]]) -> list[tuple[Key, Entry]]:
    """Leave out statuses that a newer one of the same writer supersedes."""
    newest = {
        (key.kind, key.site): key.text
        for key, _ in wanted
        if key.kind in ("status", "aggregator-status")
    }
    return [
        pair for pair in wanted
        if newest.get((pair[0].kind, pair[0].site), pair[0].text) == pair[0].text
    ]  # fmt: skip


def open_study(store: Store, *, site: str | None = None, skip: Iterable[str] = ()) -> Observer:
    """Find the study on a store and return an observer that has looked once.

    Raises:
        StudyError: the store holds no study that can be trusted.
        RejectedError: it holds one, written by a newer major version of the protocol.
        StoreError: the store cannot be read.
    """
    view = TrustedView()
    key = layout.parse(layout.charter(1))
    try:
        data = store.get(layout.charter(1), max_bytes=_MAX_ENVELOPE_BYTES)
    except ObjectNotFoundError as error:
        raise StudyError(
            f"{store.url} holds no federation",
            hint="check the path; a coordinator makes one with: fedfs init STORE ...",
        ) from error
    try:
        if key is not None:
            view.add(key, data)
    except RejectedError as error:
        kind = type(error)
        raise kind(f"the charter at {store.url} {error}", hint=error.hint) from error
    observer = Observer(store, view, site=site, skip=skip)
    observer.refresh()
    return observer


def newest_charter(state: StudyState) -> Charter:
    """Return the charter in force.

    Raises:
        StudyError: there is none.
    """
    if state.charter is None:
        raise StudyError("the store holds no charter that can be trusted")
    return state.charter


def fetch_payload(store: Store, ref: PayloadRef, folder: Path, *, max_bytes: int) -> Path:
    """Return a local copy of a payload, its hash checked; copies are kept by hash.

    Args:
        store: where it lies.
        ref: what a verified manifest says of it.
        folder: cache folder.
        max_bytes: the largest payload this reader accepts.

    Raises:
        TensorError: too large, or its bytes are not those that were signed for.
        ObjectNotFoundError: it is not there.
        StoreError: the store cannot be read.
    """
    if not 0 < ref.size <= max_bytes:
        raise TensorError(f"names a payload of {ref.size} bytes, at most {max_bytes} are accepted")
    key = layout.parse(ref.key)
    if key is None or key.sha256 != ref.sha256:
        raise MisplacedError(f"names the payload {ref.key!r}, which is no payload key of its hash")
    path = folder / f"{ref.sha256}.safetensors"
    if path.exists() and file_sha256(path) == ref.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        store.download(ref.key, path, max_bytes=ref.size)
    except ObjectTooLargeError as error:
        raise TensorError(f"payload is larger than the {ref.size} bytes signed for") from error
    if path.stat().st_size != ref.size or file_sha256(path) != ref.sha256:
        path.unlink()
        raise TensorError("payload is corrupt or truncated: its bytes are not those signed for")
    return path


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune_cache(folder: Path, keep: Iterable[str]) -> None:
    """Delete cached files whose name, a payload's hash, is not in ``keep``."""
    kept = {f"{name}.safetensors" for name in keep}
    for path in folder.glob("*.safetensors"):
        if path.name not in kept:
            path.unlink()
