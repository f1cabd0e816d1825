"""Import of a bundle: check it whole, then publish its objects in a store.

Rules:
 * A bundle is checked whole before anything is published: every hash, and every message by the view
   that would read it on the store. Nothing of one with a fault is published.
 * Importing is idempotent: what is there already stays. What lies there and differs is an error.
 * Keys that the other side named as its own are remembered beside this host's keys.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedfs.errors import BundleError, ObjectNotFoundError, StudyError
from fedfs.exchange.observer import MAX_ENVELOPE_BYTES
from fedfs.exchange.payloads import MAX_MODEL_BYTES
from fedfs.learner import OnProgress, Progress
from fedfs.protocol import values
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.courier.bundle.format import CHUNK_BYTES, Header, Index, Item
from fedfs.roles.courier.bundle.hashing import Hashing
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.needed import DIRECTIONS, FOR, FROM, may_carry
from fedfs.roles.courier.party import party_name, party_option
from fedfs.roles.courier.seen import SiteView, in_order, memory_of
from fedfs.store.base import Entry, ReadableStore, Store
from fedfs.trust import sealing
from fedfs.trust.keyring import Keyring
from fedfs.trust.sealing import Identity


@dataclass(frozen=True)
class Imported:
    """Result of an import: numbers of objects that were published, or there already."""

    header: Header
    n_new: int
    n_there: int
    n_bytes: int


def import_bundle(
    path: Path,
    store: Store,
    *,
    home: Path,
    on_progress: OnProgress,
    identities: Sequence[Identity] = (),
) -> Imported:
    """Check a bundle and publish what is in it.

    Args:
        path: the file, or any of its parts.
        store: where to; may be empty if the bundle holds the first charter.
        home: this host's fedfs home: holds its keys.
        on_progress: called with the progress.
        identities: further keys that may open the bundle.

    Raises:
        BundleError: it is damaged, of another study, or lacks something; nothing was published.
        SealedError: this host cannot open it.
        RejectedError: a message in it cannot be accepted; nothing was published.
        StoreError: the store refuses, or holds something else under a key; importing again goes on.
    """
    with BundleReader(path) as bundle, store.scratch() as scratch:
        header = bundle.header
        keyring = Keyring(home, values.check_study(header.study))
        keys = _identities(header, keyring, identities)
        index = bundle.index(partial(sealing.unseal, identities=keys))
        unpacked = _Unpacked(bundle, index, keys, scratch, on_progress)
        site, direction = values.check_party(header.site), header.direction
        if direction not in DIRECTIONS:
            raise BundleError(f"has the unknown direction {direction!r}")
        for key in unpacked.keys:
            parsed = parse_on_store(key)
            if parsed is None or not may_carry(parsed, direction, site):
                raise BundleError(
                    f"holds {key}, which does not belong into a bundle {direction} "
                    f"{party_name(site)}"
                )
        view, here = _check(unpacked, store, header)
        n_new = 0
        old = view.select(lambda track: track.superseded(), keys={*here, *unpacked.keys})
        ordered = in_order(set(unpacked.keys) - set(old))
        for number, key in enumerate(ordered):
            on_progress(Progress("publish", number, len(ordered), "objects"))
            n_new += unpacked.publish(key, store)
        back = FROM if direction == FOR else FOR
        keyring.memory.remember(memory_of(site, back), {"has": list(index.has)})
    n_bytes = sum(item.size for item in index.items)
    return Imported(header, n_new, len(index.items) - n_new, n_bytes)


def unsealer(
    header: Header, home: Path, identities: Sequence[Identity]
) -> Callable[[bytes], bytes]:
    """Return a function that opens a bundle's index with this host's keys and further ones."""
    keyring = Keyring(home, values.check_study(header.study))
    return partial(sealing.unseal, identities=_identities(header, keyring, identities))


def _identities(header: Header, keyring: Keyring, further: Sequence[Identity]) -> list[Identity]:
    return [*keyring.all_identities(), *further] if header.sealed else []


class _Unpacked:
    """The objects of a bundle, checked: messages in memory, payloads in files."""

    def __init__(
        self,
        bundle: BundleReader,
        index: Index,
        identities: Sequence[Identity],
        folder: Path,
        on_progress: OnProgress,
    ) -> None:
        self.messages: dict[str, bytes] = {}
        self.payloads: dict[str, Path] = {}
        for number, item in enumerate(index.items):
            on_progress(Progress("check", number, len(index.items), "objects"))
            key = parse_on_store(item.key)
            if key is None:
                raise BundleError(f"holds {item.key}, which is not an object of a study")
            limit = MAX_MODEL_BYTES if key.is_payload else MAX_ENVELOPE_BYTES
            if item.size > limit:
                raise BundleError(
                    f"has {item.size} bytes; at most {limit} are allowed", key=item.key
                )
            if key.is_payload and key.sha256 != item.sha256:
                raise BundleError("has other bytes than its name says", key=item.key)
            target = folder / f"{number:06d}" if key.is_payload else None
            data = _extract(bundle, item, identities, target)
            if target is not None:
                self.payloads[item.key] = target
            else:
                self.messages[item.key] = data

    @property
    def keys(self) -> list[str]:
        """Keys of all objects."""
        return [*self.payloads, *self.messages]

    def publish(self, key: str, store: Store) -> bool:
        """Create an object; return whether it was not there."""
        if key in self.payloads:
            return store.adopt(key, self.payloads[key])
        return store.create(key, self.messages[key])


def _extract(
    bundle: BundleReader, item: Item, identities: Sequence[Identity], target: Path | None
) -> bytes:
    """Write a payload to a file, or return a message; check size and hash."""
    source = bundle.open(item)
    with target.open("wb", buffering=0) if target else io.BytesIO() as file:
        sink = Hashing(item.size, file)
        buffered = io.BufferedWriter(sink, CHUNK_BYTES)  # type: ignore[type-var]  # age writes small pieces
        if bundle.header.sealed:
            sealing.unseal_file(source, buffered, identities)
        else:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)
        buffered.flush()
        if sink.n_bytes != item.size or sink.sha256 != item.sha256:
            raise BundleError("is damaged: its bytes are not those of the index", key=item.key)
        if isinstance(file, io.BytesIO):
            return file.getvalue()
        os.fsync(file.fileno())
        return b""


class _Overlay(ReadableStore):
    """A store as it would be with a bundle's objects; nothing is written."""

    def __init__(self, inner: ReadableStore, unpacked: _Unpacked) -> None:
        self.url = inner.url
        self._inner, self._unpacked = inner, unpacked

    def get(self, key: str, *, max_bytes: int) -> bytes:
        try:
            return self._inner.get(key, max_bytes=max_bytes)
        except ObjectNotFoundError:
            if key not in self._unpacked.messages:
                raise
            return self._unpacked.messages[key]

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        entries = {entry.key: entry for entry in self._inner.list(prefix, after=after)}
        for key, data in self._unpacked.messages.items():
            if key.startswith(prefix) and key > after:
                entries.setdefault(key, Entry(key, len(data), 0.0))
        return iter([entries[key] for key in sorted(entries)])

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        payload = self._unpacked.payloads.get(key)
        if payload is None:
            self._inner.download(key, path, max_bytes=max_bytes)
        elif payload.stat().st_size > max_bytes:
            raise self._too_large(key, max_bytes)
        else:
            shutil.copyfile(payload, path)


def _check(unpacked: _Unpacked, store: ReadableStore, header: Header) -> tuple[SiteView, set[str]]:
    """Check that all of a bundle would be accepted on the store, and that nothing is missing.

    Returns:
        What the store would then show, and the keys that are there before.

    Raises:
        BundleError: it would not.
    """
    source = "STORE" if header.direction == FOR else "FOLDER"
    again = (
        f"export everything again: fedfs bundle export {source} "
        f"{party_option(header.direction, header.site)} --everything -o FILE"
    )
    try:
        view = SiteView(_Overlay(store, unpacked), header.site)
    except StudyError as error:
        text = "lacks the study's first charter, which this store does not hold either"
        raise BundleError(text, hint=again) from error
    view.refresh()
    if view.state.charter.study != header.study:
        raise BundleError(f"is of study {header.study}; this store holds another one")
    rejected, named = view.rejected, view.named
    for key in unpacked.messages:
        if key in rejected:
            raise BundleError(f"cannot be accepted: {rejected[key]}", key=key, hint=again)
    for key in unpacked.payloads:
        if key not in named:
            raise BundleError(f"holds {key}, which no accepted message names")
    before = view.keys_of(store)
    missing = view.select(
        lambda track: track.missing(header.direction), keys=before | set(unpacked.keys)
    )
    if missing:
        raise BundleError(
            f"lacks {min(missing)}, which this store does not hold either", hint=again
        )
    return view, before
