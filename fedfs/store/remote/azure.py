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
import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator
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
from fedfs.store.certificates import certificate_error
from fedfs.store.place import redact
from fedfs.store.remote.dialect import DENIED, UNREACHABLE, Dialect, quiet

SILENCE_S = 15
"""Seconds without a byte that end a request."""

_CONNECT_S = 8
_BLOCK_BYTES = 8 << 20
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

    def _open(self, path: str, mode: str = "rb", **_: Any) -> "_Reader":
        if mode != "rb":
            raise ValueError(mode)
        return _Reader(self.blob(path))


class _Reader(io.RawIOBase):
    """A blob as a file: each reading is a request."""

    def __init__(self, blob: Any) -> None:
        self._blob = blob
        self._at, self._has_ended = 0, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise ValueError(whence)
        self._at, self._has_ended = offset, False
        return offset

    def read(self, size: int = -1) -> bytes:
        if self._has_ended or not size:
            return b""
        try:
            with _found():
                length = size if size > 0 else None
                answer = self._blob.download_blob(offset=self._at, length=length)
                data = bytes(answer.readall())
        except HttpResponseError as error:
            if error.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return b""  # nothing is behind this place: as of an empty blob
        # Less than was asked for is the end; the size in the answer is that of this part.
        self._at, self._has_ended = self._at + len(data), size < 0 or len(data) < size
        return data


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
            "max_single_get_size": _BLOCK_BYTES, "max_chunk_get_size": _BLOCK_BYTES,
        }  # fmt: skip
        return _Container(_client(place[1], options)), place[2] or ""

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
