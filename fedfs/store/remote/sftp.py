"""SFTP, by asyncssh.

Rules:
 * Host keys, keys, the agent and hosts behind hosts are those of ``~/.ssh`` and ``/etc/ssh``, as
   for ssh. A host whose key is not known is refused.
 * SFTP's rename does not overwrite, so that one writer wins.
 * A server that is silent for :data:`SILENCE_S` is given up.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import asyncssh
from fsspec.asyn import sync_wrapper
from sshfs import SSHFileSystem
from sshfs.file import SSHFile

from fedfs.errors import (
    FedfsError,
    SetupError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store.ahead import in_order
from fedfs.store.remote.credentials import password_for
from fedfs.store.remote.dialect import DENIED, UNREACHABLE, Dialect, decoded, quiet, split

_log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Seconds without an answer, of a host that is connected to or of one that was."""

_KEEPALIVES = 2
_READ_BYTES = 1 << 20
_AT_ONCE = 4
_FAST = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"  # by the processor; asyncssh has it later
_CONFIGURATIONS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")


class _File(SSHFile):  # type: ignore[misc] # comes without types
    """A file whose requests are as long as the server allows."""

    def _determine_block_size(self, channel: asyncssh.SFTPClient) -> int:
        # As sshfs has it, unless the server tells more, which sshfs does not see.
        limits = channel.limits
        told = limits.max_read_len if self.readable() else limits.max_write_len
        return max(told, int(super()._determine_block_size(channel)))


class _FileSystem(SSHFileSystem):  # type: ignore[misc] # comes without types
    """Files over SFTP whose move does not overwrite."""

    rmdir = sync_wrapper(SSHFileSystem._rmdir)  # noqa: SLF001  otherwise it does nothing

    def _open(self, path: str, *args: Any, **options: Any) -> _File:
        return _File(self, path, *args, **options)

    async def _mv(self, lpath: str, rpath: str, **_: Any) -> None:
        async with self._pool.get() as channel:
            try:
                await channel.rename(lpath, rpath)
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists) as error:
                # The common version of the protocol says no more than that it failed.
                if await channel.exists(rpath):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
                raise


class SFTP(Dialect):
    """``sftp://user@host:port/path``; what the URL leaves out comes from ``~/.ssh/config``."""

    promises_one_winner = True

    def open(self, url: str) -> tuple[Any, str]:
        """See :meth:`Dialect.open`."""
        quiet("asyncssh")
        parts = split(url)
        host, user = str(parts.hostname), decoded(parts.username)
        where = {"port": parts.port, "username": user, "password": password_for(host, user)}
        given: dict[str, Any] = {name: value for name, value in where.items() if value is not None}
        config = _readable(_CONFIGURATIONS)
        told = asyncssh.SSHClientConnectionOptions(host=host, config=config)
        if told.known_hosts is None:
            raise SetupError(
                "The configuration of ssh turns the check of host keys off.",
                hint="take UserKnownHostsFile none out of ~/.ssh/config",
            )
        if told.config.get("Ciphers") is None:
            given["encryption_algs"] = _FAST
        fs = _FileSystem(
            host,
            **given,
            config=config,
            known_hosts=told.known_hosts or _readable(_KNOWN_HOSTS) or b"",
            connect_timeout=SILENCE_S,
            keepalive_interval=SILENCE_S / _KEEPALIVES,
            keepalive_count_max=_KEEPALIVES,
            skip_instance_cache=True,
        )
        # One request of many fails for all; the others' errors would be printed.
        fs.loop.set_exception_handler(lambda _, what: _log.debug("%s", what.get("message")))
        return fs, str(decoded(parts.path))

    def read(self, fs: Any, path: str, start: int, n_bytes: int) -> Iterator[bytes]:
        """See :meth:`Dialect.read`."""
        with fs.open(path, "rb") as file:
            parts = range(0, n_bytes, _READ_BYTES)
            calls = (partial(file.read, min(_READ_BYTES, n_bytes - at), start + at) for at in parts)
            yield from takewhile(bool, in_order(calls, at_once=_AT_ONCE))

    def write(self, fs: Any, path: str, chunks: Iterable[bytes], size: int) -> None:
        """See :meth:`Dialect.write`."""
        del size
        with fs.open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                file.fsync()

    def move(self, fs: Any, source: str, target: str) -> None:
        """See :meth:`Dialect.move`."""
        fs.mv(source, target)

    def translate(self, error: Exception, what: str, store: str) -> FedfsError:
        """See :meth:`Dialect.translate`."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return StoreError(
                f"{what}: the server's host key is not the one that is known, or none is known.",
                hint="connect with ssh once and compare the key by telephone; it then is in "
                "~/.ssh/known_hosts",
                store=store,
            )
        if isinstance(error, (asyncssh.PermissionDenied, asyncssh.KeyImportError)) or (
            isinstance(error, PermissionError) and not error.errno
        ):
            return StorePermissionError(
                f"{what}: the server does not let this user in.",
                hint="try ssh with this user and host; the key belongs in ~/.ssh or the agent",
                store=store,
            )
        if isinstance(error, (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)):
            return StorePermissionError(f"{what}: permission is denied.", hint=DENIED, store=store)
        if isinstance(error, (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)):
            hint = "free some space, or raise the quota"
            return StoreFullError(f"{what}: no space is left.", hint=hint, store=store)
        if isinstance(error, asyncssh.SFTPFailure):
            return StoreError(
                f"{what}: the server says no more than that it failed.",
                hint="its disk or quota may be full; its log says more",
                store=store,
            )
        if isinstance(error, (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost)):
            text = f"{what}: the connection was lost."
            return StoreUnavailableError(text, hint=UNREACHABLE, store=store)
        if isinstance(error, (asyncssh.DisconnectError, asyncssh.ChannelOpenError)):
            reason = error.reason.removesuffix(".")
            text = f"{what}: {reason or 'the connection was lost'}."
            return StoreUnavailableError(text, hint=UNREACHABLE, store=store)
        return super().translate(error, what, store)


def _readable(names: tuple[str, ...]) -> list[str]:
    paths = [str(Path(name).expanduser()) for name in names]
    return [path for path in paths if os.access(path, os.R_OK)]
