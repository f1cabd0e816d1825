"""Azure Blob Storage, by azure-storage-blob: one container.

Rules:
 * An object is created by the one request that makes it visible, with ``If-None-Match: *``: one
   writer wins, however large it is. Parts of an upload that broke are seen by nobody, and the
   server drops them.
 * Credentials are those of Azure's usual variables, proxies and authorities those of requests:
   ``HTTPS_PROXY``, ``REQUESTS_CA_BUNDLE``.
 * A server that is silent for :data:`SILENCE_S` is given up.
"""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock, BlobPrefix, ContainerClient, StorageErrorCode
from fsspec import AbstractFileSystem

from fedfs.errors import (
    FedfsError,
    SetupError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store.ahead import in_order
from fedfs.store.certificates import certificate_error
from fedfs.store.place import redact
from fedfs.store.remote.dialect import DENIED, UNREACHABLE, Dialect, quiet

SILENCE_S = 15
"""Seconds without a byte that end a request."""

_CONNECT_S = 8
_BLOCK_BYTES = 8 << 20
_READ_BYTES = 6 << 20  # with each request, of which four are on their way
_AT_ONCE = 4
_RECEIVE_BYTES = 256 << 10  # at a time, from a connection
_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
_ACCOUNT = "AZURE_STORAGE_ACCOUNT_NAME"
_SECRETS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
_PLACE = re.compile(r"az://([a-z0-9][a-z0-9-]{2,62})(/.*)?")
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class _Container(AbstractFileSystem):  # type: ignore[misc] # comes without types
    """Blobs of a container as files; a folder is no more than the beginning of names."""

    protocol = "az"
    cachable = False

    def __init__(self, client: ContainerClient) -> None:
        super().__init__()
        self._client = client

    def exists(self, path: str, **_: Any) -> bool:
        return bool(self.blob(path).exists())

    def isdir(self, path: str) -> bool:
        return bool(self.ls(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        with _found():
            return _file(self.blob(path).get_blob_properties())

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002  fsspec's
        folder = path.strip("/")
        with _found():
            found = [
                {"name": item.name.rstrip("/"), "size": 0, "type": "directory"}
                if isinstance(item, BlobPrefix)
                else _file(item)
                for item in self._client.walk_blobs(f"{folder}/" if folder else None)
            ]
        return found if detail else [one["name"] for one in found]

    def rm_file(self, path: str) -> None:
        with _found():
            self.blob(path).delete_blob()

    def rmdir(self, path: str) -> None:
        """Do nothing: a folder goes with the last object in it."""

    def blob(self, path: str) -> Any:
        """Return the client of a blob."""
        return self._client.get_blob_client(path.strip("/"))


class Azure(Dialect):
    """``az://container/prefix``; the account is that of Azure's variables."""

    promises_one_winner = True
    has_folders = False

    def open(self, url: str) -> tuple[Any, str]:
        """See :meth:`Dialect.open`."""
        quiet("azure")
        place = _PLACE.fullmatch(url)
        if not place:
            raise UserError(f"{redact(url)} names no container.", hint="give az://CONTAINER/PREFIX")
        # Whoever called tries again, and transfers go in pieces.
        options: dict[str, Any] = {
            "retry_total": 0, "connection_timeout": _CONNECT_S, "read_timeout": SILENCE_S,
            "max_single_get_size": _READ_BYTES, "max_chunk_get_size": _READ_BYTES,
            "connection_data_block_size": _RECEIVE_BYTES,
        }  # fmt: skip
        return _Container(_client(place[1], options)), place[2] or ""

    def read(self, fs: Any, path: str, start: int, n_bytes: int) -> Iterator[bytes]:
        """See :meth:`Dialect.read`."""
        blob, end = fs.blob(path), start + n_bytes
        first, size = _part(blob, start, min(_READ_BYTES, n_bytes))
        yield first
        starts = range(start + len(first), min(size, end), _READ_BYTES)
        parts = (partial(_part, blob, at, min(_READ_BYTES, end - at)) for at in starts)
        yield from (data for data, _ in in_order(parts, at_once=_AT_ONCE))

    def write(self, fs: Any, path: str, chunks: Iterable[bytes], size: int) -> None:
        """See :meth:`Dialect.write`."""
        blob = fs.blob(path)
        try:
            if size <= _BLOCK_BYTES:
                blob.upload_blob(b"".join(chunks), overwrite=False)
                return
            # Names of one's own: those that the library gives are the same for all writers, whose
            # parts would then get mixed.
            blocks = [BlobBlock(uuid.uuid4().hex) for _ in range(-(-size // _BLOCK_BYTES))]
            for block, piece in zip(blocks, _pieces(chunks), strict=True):
                blob.stage_block(block.id, piece)
            blob.commit_block_list(blocks, match_condition=MatchConditions.IfMissing)
        except ResourceExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        except HttpResponseError as error:
            # The winner's list drops the parts of the others.
            if _code(error) == StorageErrorCode.INVALID_BLOCK_LIST and blob.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            raise

    def translate(self, error: Exception, what: str, store: str) -> FedfsError:
        """See :meth:`Dialect.translate`."""
        if not isinstance(error, AzureError):
            return super().translate(error, what, store)
        status = int(getattr(error, "status_code", 0) or 0)
        code = str(_code(error) or f"{status}")
        if status == HTTPStatus.NOT_FOUND:
            return StoreUnavailableError(
                f"{what}: the container is not there.",
                hint="check the URL; whoever runs the account makes the container",
                store=store,
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return StorePermissionError(
                f"{what}: the server refuses this account, key or token ({code}).",
                hint=f"check {_CONNECTION}, or {_ACCOUNT} and its key or token; {DENIED}",
                store=store,
            )
        text = f"{what}: the server answers with {code}."
        if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return StoreUnavailableError(
                text, hint="the server is busy, or in trouble", store=store
            )
        if status:
            return StoreError(text, hint="show this to whoever runs the account", store=store)
        refused = certificate_error(
            str(error), what, "the server", setting="REQUESTS_CA_BUNDLE", store=store
        )
        if refused:
            return refused
        # What the library says may hold a URL with a token.
        text = f"{what}: the server cannot be reached, or is silent."
        return StoreUnavailableError(text, hint=UNREACHABLE, store=store)


def _client(container: str, options: dict[str, Any]) -> ContainerClient:
    """Return the client of a container, as Azure's variables say.

    Raises:
        SetupError: they say too little, or cannot be read.
    """
    account = os.environ.get(_ACCOUNT)
    secret = next(filter(None, map(os.environ.get, _SECRETS)), None)
    try:
        if connection := os.environ.get(_CONNECTION):
            return ContainerClient.from_connection_string(connection, container, **options)
        if account and secret:
            url = f"https://{account}.blob.core.windows.net"
            return ContainerClient(url, container, credential=secret, **options)
    except ValueError:  # whose text may quote them
        raise SetupError(
            "The variables of Azure cannot be read.", hint=f"check {_CONNECTION} or {_ACCOUNT}"
        ) from None
    raise SetupError(
        "The variables of Azure name no account.",
        hint=f"set {_CONNECTION}, or {_ACCOUNT} and {_SECRETS[0]} or {_SECRETS[1]}",
    )


@contextlib.contextmanager
def _found() -> Iterator[None]:
    """Say as the operating system that a blob is not there; that its container is not stays."""
    try:
        yield
    except ResourceNotFoundError as error:
        if _code(error) == StorageErrorCode.CONTAINER_NOT_FOUND:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


def _code(error: Exception) -> str | None:
    """Return Azure's word for an error."""
    code = getattr(error, "error_code", None)
    return None if code is None else str(getattr(code, "value", code))


def _file(properties: Any) -> dict[str, Any]:
    """Return a blob as fsspec describes a file."""
    return {
        "name": properties.name,
        "size": properties.size,
        "type": "file",
        "mtime": properties.last_modified,
    }


def _part(blob: Any, start: int, length: int) -> tuple[bytes, int]:
    """Return a part of a blob, and the size of the whole."""
    try:
        with _found():
            answer = blob.download_blob(offset=start, length=length)
            data = bytes(answer.readall())
    except HttpResponseError as error:
        if error.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return b"", start  # nothing is behind this place: as of an empty blob
    _, _, size = str(answer.properties.content_range).rpartition("/")
    return data, int(size)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of the size of a block."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= _BLOCK_BYTES:
            yield bytes(held[:_BLOCK_BYTES])
            del held[:_BLOCK_BYTES]
    if held:
        yield bytes(held)
