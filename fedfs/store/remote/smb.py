"""SMB, by smbprotocol: shares of Windows, Samba and storage appliances, without a mount.

Rules:
 * A finished file gets its name by a hard link, which fails if the name is taken, so that one
   writer wins. Samba's rename looks and then renames, so that two may; it is for servers without
   links only.
 * Messages are signed, and encrypted where the server asks for it.
 * A server that is silent for twice :data:`SILENCE_S` is given up.
"""

import contextlib
import errno
import logging
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import smbclient
from fsspec import AbstractFileSystem
from smbprotocol.connection import Connection
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBOSError
from smbprotocol.file_info import FileAttributes
from smbprotocol.header import NtStatus

from fedfs.errors import FedfsError, StorePermissionError, StoreUnavailableError
from fedfs.store.ahead import in_order
from fedfs.store.remote.credentials import VARIABLE, login_for
from fedfs.store.remote.dialect import UNREACHABLE, Dialect, decoded, quiet, split

_log = logging.getLogger(__name__)

SILENCE_S = 8
"""Seconds without a byte after which a server is asked whether it is there."""

_CHUNK_BYTES = 1 << 20
_AT_ONCE = 2  # readings: the next one is on its way while one is written down
_CREDITS = 512  # of which a request takes one for each 64 KiB: many threads send at the same time
_CODES = {
    NtStatus.STATUS_OBJECT_NAME_NOT_FOUND: errno.ENOENT,
    NtStatus.STATUS_OBJECT_PATH_NOT_FOUND: errno.ENOENT,
    NtStatus.STATUS_NO_SUCH_FILE: errno.ENOENT,
    NtStatus.STATUS_NOT_FOUND: errno.ENOENT,
    NtStatus.STATUS_NOT_A_DIRECTORY: errno.ENOTDIR,
    NtStatus.STATUS_FILE_IS_A_DIRECTORY: errno.EISDIR,
    NtStatus.STATUS_OBJECT_NAME_COLLISION: errno.EEXIST,
    NtStatus.STATUS_ACCESS_DENIED: errno.EACCES,
    NtStatus.STATUS_DISK_FULL: errno.ENOSPC,
    0xC0000044: errno.EDQUOT,  # STATUS_QUOTA_EXCEEDED
    0xC00000A2: errno.EROFS,  # STATUS_MEDIA_WRITE_PROTECTED
    NtStatus.STATUS_SHARING_VIOLATION: errno.EBUSY,
    NtStatus.STATUS_DELETE_PENDING: errno.EBUSY,
    NtStatus.STATUS_INSUFF_SERVER_RESOURCES: errno.EAGAIN,
    NtStatus.STATUS_IO_TIMEOUT: errno.ETIMEDOUT,
    NtStatus.STATUS_FILE_CLOSED: errno.ECONNRESET,
    NtStatus.STATUS_NETWORK_NAME_DELETED: errno.ECONNRESET,
    NtStatus.STATUS_USER_SESSION_DELETED: errno.ECONNRESET,
}
_NO_LINKS = {
    NtStatus.STATUS_NOT_SUPPORTED,
    NtStatus.STATUS_INVALID_DEVICE_REQUEST,
    NtStatus.STATUS_INVALID_PARAMETER,
    NtStatus.STATUS_INVALID_INFO_CLASS,
    0xC0000002,  # STATUS_NOT_IMPLEMENTED
}
_STRANGERS = {
    NtStatus.STATUS_LOGON_FAILURE,
    NtStatus.STATUS_WRONG_PASSWORD,
    NtStatus.STATUS_PASSWORD_EXPIRED,
    0xC000006E,  # STATUS_ACCOUNT_RESTRICTION
    0xC0000072,  # STATUS_ACCOUNT_DISABLED
    0xC0000234,  # STATUS_ACCOUNT_LOCKED_OUT
}


class _FileSystem(AbstractFileSystem):  # type: ignore[misc] # comes without types
    """Files of an SMB server, over one connection that is not made again.

    Args:
        host: name or address of the server.
        login: port, user name and password as :mod:`smbclient` takes them.

    Attributes:
        connection: to the server.
    """

    protocol = "smb"
    cachable = False

    def __init__(self, host: str, **login: Any) -> None:
        super().__init__()
        self._host = host
        # A connection for each file system: those that smbclient keeps do not survive a fork. And a
        # name for each: Samba lets one process serve those of one name, whose logins then may wait
        # for each other for ever.
        self.connection = Connection(uuid.uuid4(), host, login["port"])
        self.connection.connect(timeout=SILENCE_S)
        cache = {f"{host.lower()}:{login['port']}": self.connection}
        self._options = {**login, "connection_cache": cache}
        session = self._log_in()
        for kind in ("max_read_size", "max_write_size"):
            size = min(getattr(self.connection, kind), _CHUNK_BYTES)
            setattr(self.connection, kind, size)
        self.connection.echo(session.session_id, timeout=SILENCE_S, credit_request=_CREDITS)

    def _log_in(self) -> Any:
        """Return the session; smbprotocol would wait for it without an end."""
        end = threading.Timer(2 * SILENCE_S, self.connection.disconnect, kwargs={"close": False})
        end.daemon = True
        end.start()
        try:
            return smbclient.register_session(self._host, **self._options)
        except BaseException:
            self.connection.disconnect(close=False)
            raise
        finally:
            end.cancel()

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self._open(path).close()  # which costs a third of what looking at it does
        except IsADirectoryError:
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def isdir(self, path: str) -> bool:
        try:
            return bool(self.info(path)["type"] == "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        with self._call(path) as (unc, options):
            found = smbclient.stat(unc, follow_symlinks=False, **options)
        kind = "directory" if stat.S_ISDIR(found.st_mode) else "link"
        kind = "file" if stat.S_ISREG(found.st_mode) else kind
        return {"name": path, "size": found.st_size, "type": kind, "mtime": found.st_mtime}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002  fsspec's
        with self._call(path) as (unc, options):
            infos = [entry.smb_info for entry in smbclient.scandir(unc, **options)]
        found = [
            {
                "name": f"{path}/{info.file_name}",
                "size": info.end_of_file,
                "type": _kind(info.file_attributes),
                "mtime": info.last_write_time,
            }
            for info in infos
        ]
        return found if detail else [one["name"] for one in found]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002  as above
        with self._call(path) as (unc, options):
            smbclient.makedirs(unc, exist_ok=exist_ok, **options)

    def rmdir(self, path: str) -> None:
        with self._call(path) as (unc, options):
            smbclient.rmdir(unc, **options)

    def rm_file(self, path: str) -> None:
        with self._call(path) as (unc, options):
            smbclient.remove(unc, **options)

    def link(self, path1: str, path2: str) -> None:
        """Give a file a second name.

        Raises:
            FileExistsError: the name is taken.
        """
        with self._call(path1) as (unc, options):
            smbclient.link(unc, self._unc(path2), **options)

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        with self._call(path1) as (unc, options):
            smbclient.rename(unc, self._unc(path2), **options)

    def _open(self, path: str, mode: str = "rb", buffering: int = -1, **_: Any) -> Any:
        with self._call(path) as (unc, options):
            return smbclient.open_file(unc, mode, buffering, share_access="rwd", **options)

    def _unc(self, path: str) -> str:
        return f"\\\\{self._host}{path}".replace("/", "\\")

    @contextlib.contextmanager
    def _call(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield path and options for smbclient; say as the operating system what is not there."""
        if not self.connection.transport.connected:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        try:
            yield self._unc(path), self._options
        except SMBException as error:
            if code := _CODES.get(_status(error)):
                raise OSError(code, os.strerror(code), path) from None
            raise


class SMB(Dialect):
    """``smb://user@host:port/share/path``; a user of a domain is ``DOMAIN;user``."""

    promises_one_winner = True

    def open(self, url: str) -> tuple[Any, str]:
        """See :meth:`Dialect.open`."""
        quiet("smbprotocol", "smbclient", level=logging.CRITICAL)
        # The only way to tell smbprotocol that a server may be silent for less than ten minutes.
        os.environ.setdefault("SMB_EXPERIMENTAL_TRANSPORT_RECEIVE_TIMEOUT", str(SILENCE_S))
        parts = split(url)
        host = str(parts.hostname)
        user, password = login_for(host, decoded(parts.username))
        login = {"username": user and user.replace(";", "\\"), "password": password}
        fs, path = _FileSystem(host, port=parts.port or 445, **login), str(decoded(parts.path))
        share = "/" + path.split("/")[1]
        if not fs.isdir(share):  # smbclient would try for ever to make it
            raise SMBOSError(NtStatus.STATUS_BAD_NETWORK_NAME, share)
        return fs, path

    def read(self, fs: Any, path: str, start: int, n_bytes: int) -> Iterator[bytes]:
        """See :meth:`Dialect.read`."""
        with fs.open(path, "rb", buffering=0) as file:
            end = min(file.fd.end_of_file, start + n_bytes)
            starts = range(start, end, _CHUNK_BYTES)
            parts = (partial(file.fd.read, at, min(_CHUNK_BYTES, end - at)) for at in starts)
            yield from in_order(parts, at_once=_AT_ONCE)

    def move(self, fs: Any, source: str, target: str) -> None:
        """See :meth:`Dialect.move`."""
        if self.promises_one_winner:
            try:
                fs.link(source, target)
            except SMBException as error:
                if _status(error) not in _NO_LINKS:
                    raise
                self.promises_one_winner = False
                _log.info("the server has no links: two writers may both win")
            else:
                with contextlib.suppress(OSError, SMBException):
                    fs.rm_file(source)
                return
        fs.mv(source, target)

    def translate(self, error: Exception, what: str, store: str) -> FedfsError:
        """See :meth:`Dialect.translate`."""
        status = _status(error)
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            # The thread that receives has closed the socket under the one that sends.
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if code := _CODES.get(status):
            return super().translate(OSError(code, os.strerror(code)), what, store)
        if isinstance(error, SMBAuthenticationError) or status in _STRANGERS:
            return StorePermissionError(
                f"{what}: the server does not let this user in.",
                hint=f"give the user in the URL, and the password in {VARIABLE} or ~/.netrc",
                store=store,
            )
        if status == NtStatus.STATUS_BAD_NETWORK_NAME:
            text = f"{what}: the server has no share of this name."
            return StoreUnavailableError(text, hint="check the URL, and the server", store=store)
        # smbprotocol has no class of its own for a server that cannot be reached.
        if isinstance(error, (ValueError, SMBException)) and not status:
            reason = "no connection to the server" if isinstance(error, ValueError) else str(error)
            text = f"{what}: {reason.removesuffix('.')}."
            return StoreUnavailableError(text, hint=UNREACHABLE, store=store)
        return super().translate(error, what, store)


def _kind(attributes: int) -> str:
    """Return what a listed name is; links and other reparse points lead elsewhere."""
    if attributes & FileAttributes.FILE_ATTRIBUTE_REPARSE_POINT:
        return "link"
    return "directory" if attributes & FileAttributes.FILE_ATTRIBUTE_DIRECTORY else "file"


def _status(error: Exception) -> int:
    """Return the status of the answer that an error is about; 0 where there is none."""
    return int(getattr(error, "ntstatus", 0) or getattr(error, "status", 0))
