"""Differences between file systems of fsspec: how they are opened, written to, and fail.

Rules:
 * :class:`Dialect` itself serves any file system that a package registers with fsspec. It looks
   whether a name is free and then moves a finished file there, so that two writers may both win;
   a subclass does better where the protocol can.
 * A password is no part of a URL, and of no message.
"""

import errno
import importlib
import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any, ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from fsspec import get_filesystem_class
from fsspec.core import url_to_fs

from fedfs.errors import (
    FedfsError,
    SetupError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store.ahead import in_order
from fedfs.store.folder_errors import PASSING
from fedfs.store.place import redact

CHUNK_BYTES = 4 << 20
"""Of a file that are read or written at a time."""

UNREACHABLE = "check the URL, the network and the server"
DENIED = "whoever runs the store has to allow it: check the user and the permissions there"
_KNOWN = "give a folder, s3://BUCKET/PREFIX or sftp://HOST/FOLDER, or install a package for fsspec"
_SHOW = "show this to whoever runs the store"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Dialect:
    """Any file system of fsspec.

    Attributes:
        promises_one_winner: see :attr:`fedfs.store.base.Store.promises_one_winner`.
        has_folders: a folder is something of its own, and not only the beginning of names. Where
            it is not, :meth:`write` makes an object under its own name, whole and at once, and
            raises a :class:`FileExistsError` if the name is taken.
    """

    promises_one_winner: bool = False
    has_folders: ClassVar[bool] = True

    def open(self, url: str) -> tuple[Any, str]:
        """Return a file system and the path of the store in it.

        Raises:
            Exception: of the package behind it, which :meth:`translate` takes.
        """
        fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        return fs, str(root)

    def read(self, fs: Any, path: str, start: int, n_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of a file that follow on the first ``start``, but no more than asked for.

        Args:
            fs: the file system.
            path: of the file.
            start: no less than 0, and no more than the length of the file.
            n_bytes: that are asked for; the file may hold fewer, or more.
        """
        with fs.open(path, "rb") as file:
            if start:
                file.seek(start)
            lengths = (min(CHUNK_BYTES, n_bytes - at) for at in range(0, n_bytes, CHUNK_BYTES))
            calls = (partial(file.read, length) for length in lengths)
            yield from takewhile(bool, in_order(calls, at_once=1))

    def write(self, fs: Any, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Write a file that nobody reads yet, through to the disk where the protocol can.

        Args:
            fs: the file system.
            path: of the file.
            chunks: its content.
            size: length of all chunks in bytes.
        """
        del size  # for protocols that send it first
        with fs.open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def move(self, fs: Any, source: str, target: str) -> None:
        """Give a finished file its name.

        Raises:
            FileExistsError: the name is taken.
        """
        if fs.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        fs.mv(source, target)

    def list(self, fs: Any, path: str) -> list[dict[str, Any]]:
        """Return what is in a folder, as fsspec describes it."""
        found: list[dict[str, Any]] = fs.ls(path, detail=True)
        return found

    def translate(self, error: Exception, what: str, store: str) -> FedfsError:
        """Return this project's error for one of a package.

        Args:
            error: any; one that means that nothing is there becomes an
                :class:`~fedfs.errors.ObjectNotFoundError`.
            what: what could not be done, the beginning of the message.
            store: URL of the store.
        """
        message = f"{what}: {_text(error)}."
        if isinstance(error, PermissionError):
            return StorePermissionError(message, hint=DENIED, store=store)
        if isinstance(error, OSError) and error.errno in _FULL:
            return StoreFullError(
                f"{what}: no space is left.",
                hint="free some space, or raise the quota",
                store=store,
            )
        passing = (ConnectionError, TimeoutError, EOFError)
        # Errors without a number are those of names that cannot be resolved, and of libraries.
        if isinstance(error, passing) or (
            isinstance(error, OSError) and (error.errno or -1) in {-1, *PASSING}
        ):
            return StoreUnavailableError(message, hint=UNREACHABLE, store=store)
        return StoreError(message, hint=_SHOW, store=store)


def split(url: str) -> SplitResult:
    """Return the parts of a URL that names a host and a path.

    Raises:
        UserError: it names none, holds a password, or more than a place.
    """
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname and parts.path.startswith("/")) and (parts.port or 1) > 0
    except ValueError:  # of the port
        is_whole, parts = False, urlsplit("")
    if not is_whole or parts.query or parts.fragment:
        scheme = url.partition("://")[0]
        raise UserError(
            f"{redact(url)} names no host and folder.", hint=f"give {scheme}://USER@HOST/FOLDER"
        )
    return parts


def check_url(url: str) -> None:
    """Check that a URL holds no password and is not made of several.

    Raises:
        UserError: it does, or is.
    """
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise UserError(
            "The store's URL holds a password.",
            hint="leave it out: docs/storage.md says where it belongs",
        )
    if "::" in url:
        raise UserError(f"{redact(url)} is made of several URLs.", hint="give one")


def decoded(text: str | None) -> str | None:
    """Return a part of a URL as text."""
    return None if text is None else unquote(text)


def quiet(*names: str, level: int = logging.WARNING) -> None:
    """Keep loggers of packages above DEBUG, where they print headers and paths."""
    for name in names:
        logging.getLogger(name).setLevel(level)


_DIALECTS = {
    "az": ("azure", "Azure"),
    "smb": ("smb", "SMB"),
    "sftp": ("sftp", "SFTP"),
    "ssh": ("sftp", "SFTP"),
    "webdav": ("webdav", "WebDAV"),
    "webdavs": ("webdav", "WebDAV"),
}


def dialect_of(url: str) -> Dialect:
    """Return what speaks to the file system of a URL; any that fsspec knows.

    Raises:
        UserError: fsspec does not know it.
        SetupError: a package is not installed.
    """
    scheme = urlsplit(url).scheme
    module, name = _DIALECTS.get(scheme, ("", ""))
    try:
        if module:
            found: type[Dialect] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
            return found()
        get_filesystem_class(scheme)
    except ImportError as error:
        hint = f"run: pip install 'fedfs[{module}]'" if module else f"{_text(error)}."
        raise SetupError(f"What reads {scheme}:// is not installed.", hint=hint) from None
    except ValueError:
        raise UserError(f"{redact(url)}: nobody knows {scheme}://.", hint=_KNOWN) from None
    return Dialect()


def _text(error: Exception) -> str:
    """Return what an error says, without what a URL in it may tell."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact(str(text).strip().partition("\n")[0]).strip().removesuffix(".")
