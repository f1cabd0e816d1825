"""Export of a bundle: choose its objects, encrypt them for its readers, write the file."""

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedfs.errors import ObjectNotFoundError, StudyError, TensorError
from fedfs.exchange.observer import MAX_ENVELOPE_BYTES
from fedfs.exchange.publish import Clock
from fedfs.learner import OnProgress, Progress
from fedfs.protocol import messages
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import rules_of
from fedfs.protocol.track_place import parse_on_store
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.courier.bundle.format import CHUNK_BYTES, Header
from fedfs.roles.courier.bundle.hashing import Hashing
from fedfs.roles.courier.bundle.pack import BundleWriter
from fedfs.roles.courier.needed import FOR
from fedfs.roles.courier.seen import SiteView, in_order, memory_of
from fedfs.store.base import Store
from fedfs.trust import sealing
from fedfs.trust.keyring import Keyring


@dataclass(frozen=True)
class Exported:
    """Result of an export.

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


def export_bundle(
    store: Store,
    path: Path,
    site: str,
    direction: str,
    *,
    home: Path,
    clock: Clock,
    on_progress: OnProgress,
    recipients: Sequence[str] | None = None,
    part_bytes: int = 0,
    everything: bool = False,
) -> Exported | None:
    """Write a bundle; return None if there is nothing to carry.

    Args:
        store: what it is taken from.
        path: the file, or the name of its parts.
        site: the site that it is for or from, or the helper in place of one.
        direction: ``for`` or ``from``.
        home: this host's fedfs home: remembers what the other side has.
        clock: POSIX seconds.
        on_progress: called with the progress.
        recipients: public keys of age that it is sealed for; empty for nobody; None for those whom
            the charter names: the site or helper, or coordinator and aggregator.
        part_bytes: size of parts; 0 for one file.
        everything: also what the other side is known to have.

    Raises:
        StudyError: there is no study, or no helper in it, or nobody to seal it for.
        TensorError: a payload on the store is damaged.
        StoreError, SetupError: the store cannot be read, the file not be written.
    """
    view = SiteView(store, site)
    charter, sizes = view.state.charter, view.sizes
    if site == HELPER_SITE:
        rules_of(charter)
    memory = Keyring(home, charter.study).memory
    known: set[str] = set()
    if not everything:
        known |= set(memory.recall(memory_of(site, direction)).get("has", ()))
        known |= set(view.select(lambda track: track.implied())) if direction == FOR else set()
    if direction == FOR:
        keys = view.select(lambda track: track.for_site(), known=known)
    else:
        keys = view.select(lambda track: track.from_site(), known=known)
    if everything and direction == FOR:
        keys = in_order({*keys, *view.select(lambda track: track.from_site())})
    if not [key for key in keys if "/status/" not in key]:
        return None
    sealed_for = recipients
    if sealed_for is None:
        sealed_for = _recipients(view.state, charter, site, direction)
    header = Header(charter.study, site, direction, messages.utc(clock()), sealed=bool(sealed_for))
    small, hashes = _read(store, keys)
    writer = BundleWriter(path, header, hashes, part_bytes=part_bytes, recipients=sealed_for)
    with contextlib.closing(writer):
        n_bytes = 0
        for number, (key, sha256) in enumerate(hashes.items()):
            on_progress(Progress("export", number, len(hashes), "objects"))
            size = len(small[key]) if key in small else sizes[key]
            n_bytes += size
            if key in writer:
                continue
            with _opened(store, key, size, small.get(key)) as source:
                _add(writer, key, size, sha256, source, sealed_for)
        has = sorted(view.select(lambda track: track.holds(direction)))
        seal = (lambda data: sealing.seal(data, sealed_for)) if sealed_for else None
        paths = writer.finish(has, seal)
    return Exported(tuple(paths), len(hashes), n_bytes, writer.n_kept, tuple(sealed_for))


def _read(store: Store, keys: Sequence[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the bytes of the messages, and the hash of every object; what is gone is left out."""
    small, hashes = {}, {}
    for text in keys:
        key = parse_on_store(text)
        if key is not None and key.sha256 is not None:
            hashes[text] = key.sha256
            continue
        with contextlib.suppress(ObjectNotFoundError):  # an old status
            small[text] = store.get(text, max_bytes=MAX_ENVELOPE_BYTES)
            hashes[text] = hashlib.sha256(small[text]).hexdigest()
    return small, hashes


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
    tee = Hashing(size, source)

    def write(target: BinaryIO) -> None:
        if sealed_for:
            buffered = io.BufferedWriter(target, CHUNK_BYTES)
            sealing.seal_file(io.BufferedReader(tee, CHUNK_BYTES), buffered, sealed_for)
            buffered.flush()
            buffered.detach()
        else:
            shutil.copyfileobj(tee, target, CHUNK_BYTES)
        if (tee.n_bytes, tee.sha256) != (size, sha256):
            raise TensorError("is damaged: its bytes are not those signed for", key=key)

    writer.add(key, size, sha256, write)


def _recipients(state: StudyState, charter: Charter, site: str, direction: str) -> tuple[str, ...]:
    """Return the recipients of a bundle; empty for one who has not published a key yet."""
    if direction != FOR:
        keys = (charter.aggregator_encryption_key, charter.coordinator_encryption_key)
        return tuple(key for key in keys if key)
    if site == HELPER_SITE:
        asked, key = state.helper_join, rules_of(charter).helper_encryption_key
        key = key or (asked.encryption_key if asked is not None else "")
        return (key,) if key else ()
    entry, join = charter.entry(site), state.joins.get(site)
    key = entry.encryption_key if entry is not None else join.encryption_key if join else ""
    if key:
        return (key,)
    if entry is not None or join is not None:
        raise StudyError(
            f"Site {site!r} has no encryption key.",
            hint="give one with --recipient, or --plain to write a bundle that anybody can read",
        )
    return ()
