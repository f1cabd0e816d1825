"""A store on any file system of fsspec.

Rules:
 * An object is written to a hidden file beside its place, which then takes its name; where there
   are no folders, it is written under its name if that is free. Whether two writers may both win is
   up to the protocol: see :mod:`fedfs.store.remote.dialect`.
 * A download that broke goes on behind the last byte that came.
"""

import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedfs.errors import StoreError, StoreUnavailableError
from fedfs.protocol.layout import check_key
from fedfs.store import local_files
from fedfs.store.base import Entry, Store, check_prefix, is_key
from fedfs.store.folder_errors import ABSENT
from fedfs.store.posix import SWEEP_AGE_S, is_temporary
from fedfs.store.remote.connection import Connection
from fedfs.store.remote.dialect import CHUNK_BYTES, Dialect, check_url, dialect_of
from fedfs.store.retry import Attempts, Patience

_log = logging.getLogger(__name__)


class FsspecStore(Store):
    """Objects as files of a file system that fsspec knows."""

    def __init__(
        self,
        url: str,
        *,
        must_exist: bool = True,
        dialect: Dialect | None = None,
        patience: Patience = Patience(attempts=4),  # noqa: B008  frozen
    ) -> None:
        """Prepare to connect; nothing is sent.

        Args:
            url: any that fsspec knows, without a password.
            must_exist: refuse a folder that is not there; otherwise what is written first makes
                it.
            dialect: how the file system is spoken to; None for that of the URL.
            patience: with which the rest of a download is tried again.

        Raises:
            UserError: the URL is unusable.
            SetupError: a package is not installed.
        """
        check_url(url)
        parts = urlsplit(url)
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._dialect = dialect or dialect_of(url)
        self._connection = Connection(
            url, self.url, self._dialect, must_exist=must_exist and self._dialect.has_folders
        )
        self._errors = self._connection.errors
        self._patience = patience
        self._made: set[str] = set()

    @property
    def promises_one_winner(self) -> bool:
        """See :attr:`fedfs.store.base.Store.promises_one_winner`."""
        return self._dialect.promises_one_winner

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        return b"".join(self._read(check_key(key), max_bytes))

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        local_files.write_local(path, self._read(check_key(key), max_bytes), synced=False)

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return self._publish(check_key(key), lambda: (data,), len(data))

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        check_key(key)
        with local_files.open_local(path) as file:
            size = os.fstat(file.fileno()).st_size
            return self._publish(key, partial(_large_chunks, file), size)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        return self._walk(check_prefix(prefix), after)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        with (
            self._errors(f"{check_key(key)} cannot be deleted") as (fs, root),
            contextlib.suppress(*ABSENT),
        ):
            if fs.info(f"{root}/{key}")["type"] == "file":  # some remove folders with all in them
                fs.rm_file(f"{root}/{key}")

    def remove_empty_folder(self, prefix: str) -> None:
        """See :meth:`fedfs.store.base.Store.remove_empty_folder`."""
        path = check_prefix(prefix).rstrip("/")
        with (
            contextlib.suppress(StoreError),
            self._errors(f"{prefix} cannot be removed") as (fs, root),
            contextlib.suppress(*ABSENT),
        ):
            if not self._dialect.list(fs, f"{root}/{path}"):
                fs.rmdir(f"{root}/{path}")
                self._made.discard(f"{root}/{path}")

    def _read(self, key: str, max_bytes: int) -> Iterator[bytes]:
        done, attempts = 0, Attempts(self._patience)
        while True:
            try:
                for chunk in self._read_from(done, key, max_bytes):
                    done += len(chunk)
                    attempts.note_progress()
                    yield chunk
            except StoreUnavailableError as error:
                if not done:
                    raise  # whoever called tries again
                attempts.wait_after(error)
            else:
                return

    def _read_from(self, done: int, key: str, max_bytes: int) -> Iterator[bytes]:
        try:
            with self._errors(f"{key} cannot be read") as (fs, root):
                left = max_bytes + 1 - done
                for chunk in self._dialect.read(fs, f"{root}/{key}", done, left):
                    done += len(chunk)
                    if done > max_bytes:
                        raise self._too_large(key, max_bytes)
                    yield chunk
        except ABSENT:
            raise self._not_found(key) from None
        except StoreUnavailableError:
            raise
        except StoreError:
            if self._is_folder(key):
                raise self._not_found(key) from None
            raise

    def _is_folder(self, key: str) -> bool:
        with self._errors(f"{key} cannot be looked up") as (fs, root):
            return bool(fs.isdir(f"{root}/{key}"))

    def _publish(self, key: str, chunks: Callable[[], Iterable[bytes]], size: int) -> bool:
        try:
            with self._errors(f"{key} cannot be written") as (fs, root):
                path = f"{root}/{key}"
                if not fs.exists(path):  # otherwise a retry would write everything again
                    with contextlib.suppress(FileExistsError):
                        self._write(fs, path, chunks(), size)
                        return True
        except StoreUnavailableError:
            self._made.clear()  # a folder may have gone away
            raise
        except ABSENT:
            self._made.clear()
            raise StoreUnavailableError(
                f"{key} cannot be written: its folder went away.",
                hint="check the folder on the server, and whether its disk is mounted",
                store=self.url,
            ) from None
        if not self._holds(key, chunks(), size):
            raise self._exists(key)
        return False

    def _write(self, fs: Any, path: str, chunks: Iterable[bytes], size: int) -> None:
        if not self._dialect.has_folders:
            self._dialect.write(fs, path, chunks, size)
            return
        where = path.rpartition("/")[0]
        if where not in self._made:
            _make_folder(fs, where)
        temporary = f"{where}/{local_files.temporary_name()}"
        try:
            self._dialect.write(fs, temporary, chunks, size)
            if where not in self._made:
                self._sweep(fs, where, temporary.rpartition("/")[2])
                self._made.add(where)
            self._dialect.move(fs, temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(temporary)
            raise

    def _sweep(self, fs: Any, where: str, written_now: str) -> None:
        """Remove what killed writers left in a folder, by the server's clock."""
        times_s = {_name(info): _modified_s(info) for info in self._dialect.list(fs, where)}
        now_s = times_s.get(written_now, 0.0)
        for name, modified_s in times_s.items():
            if is_temporary(name) and now_s - modified_s > SWEEP_AGE_S:
                with contextlib.suppress(Exception):
                    fs.rm_file(f"{where}/{name}")
                    _log.info("removed %s, which a killed writer had left", name)

    def _holds(self, key: str, chunks: Iterable[bytes], size: int) -> bool:
        """Return whether an object that exists has this content."""
        theirs, held = self._read(key, size + CHUNK_BYTES), b""
        for chunk in chunks:
            while len(held) < len(chunk):
                more = next(theirs, b"")
                if not more:
                    return False
                held += more
            if held[: len(chunk)] != chunk:
                return False
            held = held[len(chunk) :]
        return not held and not next(theirs, b"")

    def _walk(self, prefix: str, after: str) -> Iterator[Entry]:
        with self._errors(f"{prefix or 'the store'} cannot be listed") as (fs, root):
            path = f"{root}/{prefix}".rstrip("/") or "/"
            try:
                infos = self._dialect.list(fs, path)
            except ABSENT:
                return
        if any(str(info["name"]).strip("/") == path.strip("/") for info in infos):
            return  # a file, which some list as what is in it
        found: list[tuple[str, Entry | None]] = []
        for info in infos:
            key = prefix + _name(info)
            if not is_key(key):
                continue
            if info["type"] == "directory":
                if key + "/" > after or after.startswith(key + "/"):
                    found.append((key + "/", None))
            elif info["type"] == "file" and key > after:
                found.append((key, Entry(key, info["size"], _modified_s(info))))
        for key, entry in sorted(found, key=lambda pair: pair[0]):
            if entry is None:
                yield from self._walk(key, after)
            else:
                yield entry


def _make_folder(fs: Any, path: str) -> None:
    """Make a folder, and those that it is in, while others may do the same."""
    for is_last in (*[False] * path.count("/"), True):
        try:
            fs.makedirs(path, exist_ok=True)
        except Exception:  # of a package, and often not the one for what exists
            if fs.isdir(path):
                return
            if is_last:
                raise
        else:
            return


def _large_chunks(file: Any) -> Iterator[bytes]:
    """Yield a local file in pieces that keep a long line busy."""
    held = bytearray()
    for chunk in local_files.local_chunks(file):
        held += chunk
        if len(held) >= CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _name(info: dict[str, Any]) -> str:
    """Return a file's name without its folder."""
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _modified_s(info: dict[str, Any]) -> float:
    """Return when a file was written, as packages say it in many ways."""
    for name in ("mtime", "modified", "last_modified", "updated", "LastModified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if value is not None:
            return float(value)
    return 0.0
