"""WebDAV, by webdav4: Nextcloud, Apache and others.

Rules:
 * A file is moved to its name with ``Overwrite: F``. Servers look and then move, so that of several
   writers two may win.
 * TLS, its authorities and proxies are those of httpx: ``SSL_CERT_FILE``, ``HTTPS_PROXY``.
 * A server that is silent for :data:`SILENCE_S` is given up.
"""

import errno
import io
import os
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

import httpx
from webdav4 import client as dav
from webdav4.fsspec import WebdavFileSystem

from fedfs.errors import (
    FedfsError,
    ObjectNotFoundError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store.certificates import certificate_error
from fedfs.store.remote.credentials import VARIABLE, login_for
from fedfs.store.remote.dialect import DENIED, UNREACHABLE, Dialect, decoded, quiet, split

SILENCE_S = 15.0
"""Seconds without a byte that end a request."""

_CONNECT_S = 8.0
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.LOCKED,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}

_ANSWERS: dict[int, tuple[type[StoreError], str, str]] = {
    HTTPStatus.NOT_FOUND: (ObjectNotFoundError, "it is not there", UNREACHABLE),
    HTTPStatus.GONE: (ObjectNotFoundError, "it is not there", UNREACHABLE),
    HTTPStatus.UNAUTHORIZED: (
        StorePermissionError,
        "the server does not let this user in",
        f"give the user in the URL, and the password in {VARIABLE} or ~/.netrc",
    ),
    HTTPStatus.FORBIDDEN: (StorePermissionError, "permission is denied", DENIED),
    HTTPStatus.INSUFFICIENT_STORAGE: (
        StoreFullError,
        "no space is left",
        "free some space, or raise the quota",
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        StoreError,
        "the server, or a proxy before it, takes no file of this size",
        "whoever runs it has to allow files of the size of a model",
    ),
}


class WebDAV(Dialect):
    """``webdavs://user@host/path`` over HTTPS, ``webdav://`` over HTTP."""

    def open(self, url: str) -> tuple[Any, str]:
        """See :meth:`Dialect.open`."""
        quiet("httpx", "httpcore")
        parts = split(url)
        host = str(parts.hostname)
        user, password = login_for(host, decoded(parts.username))
        secure = "s" if parts.scheme == "webdavs" else ""
        fs = WebdavFileSystem(
            f"http{secure}://{parts.netloc.rpartition('@')[2]}",
            auth=(user or "", password) if password else None,
            timeout=httpx.Timeout(SILENCE_S, connect=_CONNECT_S),
            retry=False,
            skip_instance_cache=True,
        )
        return fs, str(decoded(parts.path))

    def read(self, fs: Any, path: str, start: int, n_bytes: int) -> Iterator[bytes]:
        """See :meth:`Dialect.read`."""
        headers = {"Range": f"bytes={start}-{start + n_bytes - 1}", "Accept-Encoding": "identity"}
        url = fs.client.join_url(path)
        with fs.client.http.stream("GET", url, headers=headers, follow_redirects=True) as answer:
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is behind this place: as of an empty file
            answer.raise_for_status()
            skipped = 0 if answer.status_code == HTTPStatus.PARTIAL_CONTENT else start
            for chunk in answer.iter_raw():
                yield chunk[skipped:]
                skipped = max(0, skipped - len(chunk))

    def write(self, fs: Any, path: str, chunks: Iterable[bytes], size: int) -> None:
        """See :meth:`Dialect.write`."""
        fs.client.upload_fileobj(_Chunks(chunks), path, overwrite=True, size=size)

    def move(self, fs: Any, source: str, target: str) -> None:
        """See :meth:`Dialect.move`."""
        try:
            fs.client.move(source, target, overwrite=False)
        except dav.ResourceAlreadyExists:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None

    def translate(self, error: Exception, what: str, store: str) -> FedfsError:
        """See :meth:`Dialect.translate`."""
        if status := _status(error):
            kind, text, hint = _answer(status)
            return kind(f"{what}: {text}.", hint=hint, store=store)
        if isinstance(error, httpx.TransportError):
            refused = certificate_error(
                str(error), what, "the server", setting="SSL_CERT_FILE", store=store
            )
            if refused:
                return refused
            text = str(error).removesuffix(".") or "the server is silent"
            return StoreUnavailableError(f"{what}: {text}.", hint=UNREACHABLE, store=store)
        return super().translate(error, what, store)


def _answer(status: int) -> tuple[type[StoreError], str, str]:
    """Return what an answer of this status is: kind, reason and advice."""
    if status in _ANSWERS:
        return _ANSWERS[status]
    text = f"the server answers with {status}"
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreUnavailableError, text, "the server is busy, or in trouble"
    return StoreError, text, "show this to whoever runs the server"


class _Chunks(io.RawIOBase):
    """Pieces of a file as a file that can be read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._held = memoryview(chunk)
        end = len(self._held) if size < 0 else size
        taken, self._held = bytes(self._held[:end]), self._held[end:]
        return taken


def _status(error: Exception) -> int:
    """Return the status of the answer that an error is about; 0 where there is none."""
    if isinstance(error, dav.HTTPError):
        return int(error.status_code)
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code
    known: dict[type[Exception], HTTPStatus] = {
        dav.ForbiddenOperation: HTTPStatus.FORBIDDEN,
        dav.InsufficientStorage: HTTPStatus.INSUFFICIENT_STORAGE,
        dav.ResourceLocked: HTTPStatus.LOCKED,
        dav.ResourceConflict: HTTPStatus.CONFLICT,
        dav.BadGatewayError: HTTPStatus.BAD_GATEWAY,
    }
    return next((int(value) for kind, value in known.items() if isinstance(error, kind)), 0)
