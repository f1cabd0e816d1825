"""The seam between fedfs and whatever keeps its files: six verbs, each with its promise.

Rules:
 * An object is written once and never changed. There is no rename, no append, no lock.
 * Keys obey :func:`fedfs.protocol.layout.check_key`, on the way in and on the way out. No key is
   the folder of another one.
 * What goes wrong on the store's side is a :class:`~fedfs.errors.StoreError`, what goes wrong with
   the local file of an upload or download is a :class:`~fedfs.errors.SetupError`. No other
   exception of an operating system or a vendor's library leaves a store.
 * A verb that failed left no object and no part of one; every verb may be repeated.
 * Stores may be used by several threads, and by several processes that each open their own.

Retries, latency, faults and limits are wrappers: a :class:`Store` that holds a :class:`Store`.
"""

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedfs.errors import (
    MalformedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from fedfs.protocol.layout import check_key


@dataclass(frozen=True)
class Entry:
    """One listed object.

    Attributes:
        key: its key.
        size: length in bytes.
        modified_s: when it was created, in seconds since 1970 by the *store's* clock, which may
            disagree with this host's.
    """

    key: str
    size: int
    modified_s: float


class ReadableStore(ABC):
    """The reading half of a store, for whoever publishes nothing.

    Attributes:
        url: names it in messages.
        request_counts: kind of request -> how many were made, where requests cost money.
        at_once: reading requests that are worth making at the same time.
    """

    url: str
    at_once: int = 8
    request_counts: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def get(self, key: str, *, max_bytes: int) -> bytes:
        """Return the whole object, reading at most ``max_bytes`` + 1 bytes of it.

        Raises:
            ObjectNotFoundError: nothing is there.
            ObjectTooLargeError: it is longer than ``max_bytes``.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """Copy the object to a local file in bounded memory.

        The file appears at ``path`` complete, and replaces what was there; its folder must exist.
        After a power cut it may hold anything: whoever keeps it compares its hash again.

        Raises:
            ObjectNotFoundError: nothing is there.
            ObjectTooLargeError: it is longer than ``max_bytes``.
            SetupError: the local file cannot be written.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Yield the objects whose key starts with ``prefix`` and sorts behind ``after``, by key.

        Names that are no keys (hidden, temporary or foreign files) are left out. Objects that come
        or go meanwhile may or may not be listed, all others are.

        Args:
            prefix: ends with ``/``, or is empty for the whole store. One that holds nothing, or
                does not exist, gives an empty listing.
            after: any text; what sorts before it costs nothing, so that a poll that knows what is
                old costs the same however much of it there is.

        Raises:
            MalformedError: the prefix is not one.
            StoreError: the listing would be incomplete.
        """

    def _not_found(self, key: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(
            f"There is no object {key}.",
            store=self.url,
            hint="it may not have been copied yet; if it was deleted, restore it from a backup",
        )

    def _too_large(self, key: str, max_bytes: int) -> ObjectTooLargeError:
        return ObjectTooLargeError(
            f"{key} is larger than the {max_bytes} bytes allowed for it.",
            hint="whoever published it must be asked; it was not read",
            store=self.url,
        )


class Store(ReadableStore):
    """A place for objects."""

    @property
    def promises_one_winner(self) -> bool:
        """Exactly one of several creators wins, whatever happens.

        Otherwise that is likely at best, and no two processes may run in the same role. Some stores
        find out when something is created.
        """
        return True

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Create the object, whole or not at all; of several creators exactly one wins.

        Readers and listings see nothing of it before it is complete, and it is durable when this
        returns.

        Returns:
            True if it was created now, False if the key holds exactly these bytes already, as
            after a lost acknowledgement.

        Raises:
            ObjectExistsError: the key holds other bytes, which stay.
            StoreFullError: no space is left.
            StorePermissionError: the store is read-only, or access is denied.
            StoreError: it cannot be written.
        """

    @abstractmethod
    def upload(self, key: str, path: Path) -> bool:
        """Create the object from a local file of any size in bounded memory; see :meth:`create`.

        Raises:
            SetupError: the local file cannot be read.
            StoreError: as for :meth:`create`.
        """

    def adopt(self, key: str, path: Path) -> bool:
        """Create the object from a local file that nobody will change any more.

        As :meth:`upload`, for a file that lies where :meth:`scratch` says: where store and file
        share a disk, nothing is copied.
        """
        return self.upload(key, path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder for files that are being made, removed in the end.

        Raises:
            SetupError: there is no room for one.
        """
        with tempfile.TemporaryDirectory(prefix="fedfs-") as folder:
            yield Path(folder)

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none.

        Raises:
            StorePermissionError: the store is read-only, or access is denied.
            StoreError: it cannot be removed.
        """

    def remove_empty_folder(self, prefix: str) -> None:
        """Remove the folder of a prefix if it holds nothing, where a store has folders.

        Only for a prefix of which this process is the only writer.
        """

    def watch_path(self) -> Path | None:
        """Return the local folder in which this host's changes show up, None if there is none."""
        return None

    def _exists(self, key: str) -> ObjectExistsError:
        return ObjectExistsError(
            f"{key} exists already and holds different bytes.",
            key=key,
            store=self.url,
            hint="objects are never changed; does a second process run in the same role?",
        )


def is_key(text: str) -> bool:
    """Return whether a name found on a store obeys the rules for keys."""
    try:
        check_key(text)
    except MalformedError:
        return False
    return True


def check_prefix(text: str) -> str:
    """Return ``text`` if it can be listed: empty, or a key followed by ``/``.

    Raises:
        MalformedError: it is neither.
    """
    if text and not text.endswith("/"):
        raise MalformedError("is neither empty nor ends with /", about=f"the prefix {text!r}")
    if text:
        check_key(text[:-1])
    return text
