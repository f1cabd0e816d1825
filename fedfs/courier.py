"""Carry a study between stores: by a bundle in a file, or between two stores that one host sees.

Rules:
 * A bundle is checked whole before anything is published: every hash, and every message by the view
   that would read it on the store. Nothing of one with a fault is published.
 * Importing is idempotent: what is there already stays. What lies there and differs is an error.
 * What the other side said that it has is remembered beside this host's keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fedfs import exchange
from fedfs.bundlefile import CHUNK_BYTES, BundleReader, BundleWriter, Header, Index, Item
from fedfs.errors import (
    BundleError,
    ObjectNotFoundError,
    StudyError,
    TensorError,
)
from fedfs.exchange import FOR
from fedfs.learner import Progress, Report
from fedfs.loop import Outcome, run
from fedfs.observe import (
    MAX_ENVELOPE_BYTES,
    MAX_MODEL_BYTES,
    Observer,
    newest_charter,
    open_study,
)
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.publish import Clock
from fedfs.status import counted
from fedfs.store.base import Entry, Store
from fedfs.trust import sealing
from fedfs.trust.keyring import Keyring
from fedfs.trust.sealing import Identity
from fedfs.watch import Waiter, WaitSettings

log = logging.getLogger(__name__)


_HASHED_BEHIND = 4
"""Pieces that may wait to be hashed."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        paths: the files.
        n_objects: objects in them.
        n_bytes: bytes of these objects.
        n_kept: of the objects, how many an export that broke off had written.
        sealed_for: who can read it; empty if everybody can.
    """

    paths: tuple[Path, ...]
    n_objects: int
    n_bytes: int
    n_kept: int
    sealed_for: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """What was published, and what was there already."""

    header: Header
    n_new: int
    n_there: int
    n_bytes: int


def export_bundle(
    store: Store,
    path: Path,
    site: str,
    direction: str,
    *,
    home: Path,
    clock: Clock,
    report: Report,
    recipients: Sequence[str] | None = None,
    part_bytes: int = 0,
    everything: bool = False,
) -> Exported | None:
    """Write a bundle; return None if there is nothing to carry.

    Args:
        store: what it is taken from.
        path: the file, or the name of its parts.
        site: the site that it is for or from.
        direction: ``for`` or ``from``.
        home: this host's fedfs home: remembers what the other side has.
        clock: POSIX seconds.
        report: hears of progress.
        recipients: public keys of age that it is sealed for; empty for nobody; None for those whom
            the charter names: the site, or coordinator and aggregator.
        part_bytes: size of parts; 0 for one file.
        everything: also what the other side is known to have.

    Raises:
        StudyError: there is no study, or nobody to seal it for.
        TensorError: a payload on the store is damaged.
        StoreError, SetupError: the store cannot be read, the file not be written.
    """
    observer = _look(store, site)
    charter, state = newest_charter(observer.state), observer.state
    sizes = {entry.key: entry.size for entry in _everything(store, site)}
    memory = Keyring(home, charter.study)
    known: set[str] = set()
    if not everything:
        known |= set(memory.recall(_memory(site, direction)).get("has", ()))
        known |= exchange.implied(state, site) if direction == FOR else set()
    choose = exchange.for_site if direction == FOR else exchange.from_site
    keys = choose(state, sizes.keys(), site, known)
    if everything and direction == FOR:
        keys = exchange.in_order({*keys, *exchange.from_site(state, sizes.keys(), site, ())})
    if not [key for key in keys if "/status/" not in key]:
        return None
    sealed_for = _recipients(state, charter, site, direction) if recipients is None else recipients
    header = Header(charter.study, site, direction, messages.utc(clock()), sealed=bool(sealed_for))
    payloads, small = _split(store, keys)
    hashes = {key: (layout.parse(key) or _NONE).sha256 or "" for key in payloads}
    hashes |= {key: hashlib.sha256(data).hexdigest() for key, data in small.items()}
    writer = BundleWriter(
        path,
        header,
        {key: hashes[key] for key in keys if key in hashes},
        part_bytes=part_bytes,
        recipients=sealed_for,
    )
    with contextlib.closing(writer):
        n_bytes = 0
        for number, key in enumerate(key for key in keys if key in hashes):
            report(Progress("export", number, len(hashes), "objects"))
            size = sizes[key] if key in payloads else len(small[key])
            n_bytes += size
            if key in writer:
                continue
            with _opened(store, key, size, small.get(key)) as source:
                _add(writer, key, size, hashes[key], source, sealed_for)
        has = exchange.holds(state, sizes.keys(), site, direction)
        seal = (lambda data: sealing.seal(data, sealed_for)) if sealed_for else None
        paths = writer.finish(has, seal)
    return Exported(tuple(paths), len(hashes), n_bytes, writer.n_kept, tuple(sealed_for))


def import_bundle(
    path: Path,
    store: Store,
    *,
    home: Path,
    report: Report,
    identities: Sequence[Identity] = (),
) -> Imported:
    """Check a bundle and publish what is in it.

    Args:
        path: the file, or any of its parts.
        store: where to; may be empty if the bundle holds the first charter.
        home: this host's fedfs home: holds its keys.
        report: hears of progress.
        identities: further keys that may open the bundle.

    Raises:
        BundleError: it is damaged, of another study, or lacks something; nothing was published.
        SealedError: this host cannot open it.
        RejectedError: a message in it cannot be accepted; nothing was published.
        StoreError: the store refuses, or holds something else under a key; importing again goes on.
    """
    with BundleReader(path) as bundle, store.scratch() as scratch:
        header = bundle.header
        keyring = Keyring(home, layout.check_study(header.study))
        keys = _identities(header, keyring, identities)
        index = bundle.index(partial(sealing.unseal, identities=keys))
        unpacked = _Unpacked(bundle, index, keys, scratch, report)
        site, direction = layout.check_site(header.site), _direction(header)
        for key in unpacked.keys:
            parsed = layout.parse(key)
            if parsed is None or not exchange.may_carry(parsed, direction, site):
                raise BundleError(
                    f"holds {key}, which does not belong into a bundle {direction} {site}"
                )
        state, here = _check(unpacked, store, header)
        n_new = 0
        ordered = exchange.in_order(
            set(unpacked.keys) - exchange.superseded(state, {*here, *unpacked.keys}, site)
        )
        for number, key in enumerate(ordered):
            report(Progress("publish", number, len(ordered), "objects"))
            n_new += unpacked.publish(key, store)
        keyring.remember(_memory(site, _other(direction)), {"has": list(index.has)})
    n_bytes = sum(item.size for item in index.items)
    return Imported(header, n_new, len(index.items) - n_new, n_bytes)


def sync(hub: Store, outpost: Store, sites: Sequence[str], *, report: Report) -> tuple[int, int]:
    """Copy what sites need from the hub to their store, and what they have published back.

    Args:
        hub: where the aggregator works.
        outpost: where the sites work.
        sites: their names.
        report: hears of progress.

    Returns:
        Objects copied to the outpost, and to the hub.

    Raises:
        StoreError: a store refuses, or holds something else under a key.
        StudyError: the hub holds no study.
    """
    there = back = 0
    for site in sites:
        state = _look(hub, site).state
        in_hub, in_outpost = _keys(hub, site), _keys(outpost, site)
        wanted = exchange.for_site(state, in_hub, site, in_outpost)
        there += _copy(hub, outpost, wanted, report)
        state = _look(outpost, site).state
        wanted = exchange.from_site(state, _keys(outpost, site), site, in_hub)
        back += _copy(outpost, hub, wanted, report)
    return there, back


def run_sync(
    hub: Store,
    outpost: Store,
    sites: Sequence[str],
    *,
    report: Report,
    once: bool,
    settings: WaitSettings,
) -> Outcome:
    """Copy once, or until the study is finished; see :func:`sync`."""

    def step() -> Outcome:
        there, back = sync(hub, outpost, sites, report=report)
        text = f"copied {counted(there, 'object')} to the sites, {back} from them"
        if there or back:
            log.info("%s", text)
        state = open_study(hub, skip=exchange.STATUSES).state
        is_done = state.finished is not None and all(
            (site, state.newest, "full") in state.evaluations for site in sites
        )
        return Outcome(worked=bool(there or back), finished=is_done, text=text)

    if once:
        return step()
    folder = outpost.watch_path() or hub.watch_path()
    with Waiter(folder, settings, rng=random.Random()) as waiter:  # noqa: S311  jitter
        return run(step, wait=waiter.wait, reset=waiter.reset)


class _Unpacked:
    """The objects of a bundle, checked: messages in memory, payloads in files."""

    def __init__(
        self,
        bundle: BundleReader,
        index: Index,
        identities: Sequence[Identity],
        folder: Path,
        report: Report,
    ) -> None:
        self.messages: dict[str, bytes] = {}
        self.payloads: dict[str, Path] = {}
        for number, item in enumerate(index.items):
            report(Progress("check", number, len(index.items), "objects"))
            key = layout.parse(item.key)
            if key is None:
                raise BundleError(f"holds {item.key}, which is no object of a study")
            limit = MAX_MODEL_BYTES if key.is_payload else MAX_ENVELOPE_BYTES
            if item.size > limit:
                raise BundleError(f"{item.key} has {item.size} bytes, at most {limit} are allowed")
            if key.is_payload and key.sha256 != item.sha256:
                raise BundleError(f"{item.key} has other bytes than its name says")
            target = folder / f"{number:06d}" if key.is_payload else None
            data = _extract(bundle, item, identities, target)
            if target is not None:
                self.payloads[item.key] = target
            else:
                self.messages[item.key] = data

    @property
    def keys(self) -> list[str]:
        """Of all objects."""
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
        sink = _Hashing(item.size, file)
        buffered = io.BufferedWriter(sink, CHUNK_BYTES)  # type: ignore[type-var]  # age writes small pieces
        if bundle.header.sealed:
            sealing.unseal_file(source, buffered, identities)
        else:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)
        buffered.flush()
        if sink.n_bytes != item.size or sink.sha256 != item.sha256:
            raise BundleError(f"{item.key} is damaged: its bytes are not those of the index")
        if isinstance(file, io.BytesIO):
            return file.getvalue()
        os.fsync(file.fileno())
        return b""


class _Hashing(io.RawIOBase):
    """Hashes what passes, and stops what is longer than it may be; reads or writes ``file``.

    Hashing takes as long as writing, so a thread does it.
    """

    def __init__(self, max_bytes: int, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._hashed: deque[Future[None]] = deque()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """Hex digest of what has passed; nothing may pass after it."""
        self._pool.shutdown()
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n_read = int(self.file.readinto(buffer))  # type: ignore[attr-defined]
        self._pass(memoryview(buffer)[:n_read])
        return n_read

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._pass(memoryview(data))
        self.file.write(data)
        return len(data)

    def _pass(self, data: memoryview) -> None:
        self.n_bytes += len(data)
        if self.n_bytes > self._max_bytes:
            raise BundleError(f"holds more than the {self._max_bytes} bytes that its index names")
        if len(self._hashed) == _HASHED_BEHIND:
            self._hashed.popleft().result()
        self._hashed.append(self._pool.submit(self._hash.update, bytes(data)))


class _Overlay(Store):
    """A store as it would be with a bundle's objects; nothing is written."""

    def __init__(self, inner: Store, unpacked: _Unpacked) -> None:
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
        found = {entry.key: entry for entry in self._inner.list(prefix, after=after)}
        for key, data in self._unpacked.messages.items():
            if key.startswith(prefix) and key > after:
                found.setdefault(key, Entry(key, len(data), 0.0))
        return iter([found[key] for key in sorted(found)])

    def create(self, key: str, data: bytes) -> bool:
        raise NotImplementedError

    def upload(self, key: str, path: Path) -> bool:
        raise NotImplementedError

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError


def _check(unpacked: _Unpacked, store: Store, header: Header) -> tuple[StudyState, set[str]]:
    """Check that all of a bundle would be accepted on the store, and that nothing is missing.

    Returns:
        What the store would then show, and the keys that are there before.

    Raises:
        BundleError: it would not.
    """
    again = (
        "export everything again: fedfs bundle export "
        + (
            f"STORE --for {header.site}"
            if header.direction == FOR
            else f"FOLDER --from {header.site}"
        )
        + " --everything -o FILE"
    )
    try:
        observer = open_study(_Overlay(store, unpacked), site=header.site)
    except StudyError as error:
        text = "does not hold the study's first charter, which this store has not either"
        raise BundleError(text, hint=again) from error
    observer.refresh(everything=True)
    state = observer.state
    if newest_charter(state).study != header.study:
        raise BundleError(f"is of study {header.study}, this store holds another one")
    for key in unpacked.messages:
        if key in state.rejected:
            raise BundleError(f"{key} cannot be accepted: it {state.rejected[key]}", hint=again)
    refs = _payload_names(state)
    for key in unpacked.payloads:
        if key not in refs:
            raise BundleError(f"holds {key}, which no accepted message names")
    before = _keys(store, header.site)
    missing = exchange.missing(state, before | set(unpacked.keys), header.site, header.direction)
    if missing:
        raise BundleError(f"lacks {missing[0]}, which this store does not hold either", hint=again)
    return state, before


def _payload_names(state: StudyState) -> set[str]:
    refs = [ref for model in state.models.values() for ref in (model.payload, model.keyframe)]
    refs += [update.payload for update in state.updates.values()]
    charter = newest_charter(state)
    return {ref.key for ref in (*refs, charter.pretrained) if ref is not None}


def _look(store: Store, site: str) -> Observer:
    return open_study(store, site=site)


def _everything(store: Store, site: str) -> Iterator[Entry]:
    """Yield the objects that a site can see."""
    for prefix in (layout.FEDERATION, layout.AGGREGATOR, layout.site_prefix(site)):
        yield from store.list(prefix)


def _keys(store: Store, site: str) -> set[str]:
    return {entry.key for entry in _everything(store, site)}


def _split(store: Store, keys: Sequence[str]) -> tuple[set[str], dict[str, bytes]]:
    """Return which keys are payloads, and the bytes of the others; what is gone is left out."""
    payloads, small = set(), {}
    for text in keys:
        if (layout.parse(text) or _NONE).is_payload:
            payloads.add(text)
            continue
        with contextlib.suppress(ObjectNotFoundError):  # an old status
            small[text] = store.get(text, max_bytes=MAX_ENVELOPE_BYTES)
    return payloads, small


@contextlib.contextmanager
def _opened(store: Store, key: str, size: int, data: bytes | None) -> Iterator[BinaryIO]:
    """Open an object for reading; one of a folder where it lies."""
    if data is not None:
        yield io.BytesIO(data)
        return
    root = store.watch_path()
    local = root / key if root is not None else None
    if local is not None and local.is_file() and not local.is_symlink():
        with local.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="fedfs-export-") as folder:
        path = Path(folder) / "payload"
        store.download(key, path, max_bytes=size)
        with path.open("rb") as file:
            yield file


def _add(
    writer: BundleWriter,
    key: str,
    size: int,
    sha256: str,
    source: BinaryIO,
    sealed_for: Sequence[str],
) -> None:
    """Append an object.

    Raises:
        TensorError: its bytes are not those that its name says.
    """
    tee = _Hashing(size, source)

    def write(target: BinaryIO) -> None:
        if sealed_for:
            buffered = io.BufferedWriter(target, CHUNK_BYTES)
            sealing.seal_file(io.BufferedReader(tee, CHUNK_BYTES), buffered, sealed_for)
            buffered.flush()
            buffered.detach()
        else:
            shutil.copyfileobj(tee, target, CHUNK_BYTES)
        if (tee.n_bytes, tee.sha256) != (size, sha256):
            raise TensorError(f"{key} on the store is damaged: its bytes are not those signed for")

    writer.add(key, size, sha256, write)


def _copy(source: Store, target: Store, keys: Sequence[str], report: Report) -> int:
    n_copied = 0
    with tempfile.TemporaryDirectory(prefix="fedfs-sync-") as folder:
        for number, key in enumerate(keys):
            report(Progress("copy", number, len(keys), "objects"))
            parsed = layout.parse(key) or _NONE
            try:
                if parsed.is_payload:
                    path = Path(folder) / "payload"
                    source.download(key, path, max_bytes=MAX_MODEL_BYTES)
                    n_copied += target.upload(key, path)
                else:
                    data = source.get(key, max_bytes=MAX_ENVELOPE_BYTES)
                    n_copied += target.create(key, data)
            except ObjectNotFoundError:
                log.info("%s is gone", key)  # an old status, or pruned
    return n_copied


def _recipients(state: StudyState, charter: Charter, site: str, direction: str) -> tuple[str, ...]:
    """Return whom a bundle is sealed for; empty for a site that has not said its key yet."""
    if direction != FOR:
        keys = (charter.aggregator_encryption_key, charter.coordinator_encryption_key)
        return tuple(key for key in keys if key)
    entry, join = charter.entry(site), state.joins.get(site)
    key = entry.encryption_key if entry is not None else join.encryption_key if join else ""
    if key:
        return (key,)
    if entry is not None or join is not None:
        raise StudyError(
            f"site {site!r} has no encryption key",
            hint="give one with --recipient, or --plain to write a bundle that anybody can read",
        )
    return ()


def unsealer(
    header: Header, home: Path, identities: Sequence[Identity]
) -> Callable[[bytes], bytes]:
    """Return what opens a bundle's index, with this host's keys of its study and further ones."""
    keyring = Keyring(home, layout.check_study(header.study))
    return partial(sealing.unseal, identities=_identities(header, keyring, identities))


def _identities(header: Header, keyring: Keyring, further: Sequence[Identity]) -> list[Identity]:
    if not header.sealed:
        return []
    own = [one for role in keyring.identity_roles() for one in keyring.identities(role)]
    return [*own, *further]


def _direction(header: Header) -> str:
    if header.direction not in exchange.DIRECTIONS:
        raise BundleError(f"has the unknown direction {header.direction!r}")
    return header.direction


def _other(direction: str) -> str:
    return exchange.FROM if direction == FOR else FOR


def _memory(site: str, direction: str) -> str:
    """Name of what this host remembers for bundles of a direction: what the other side has."""
    return f"courier-{direction}-{site}"


_NONE = layout.Key("", "")
