"""Reader of bundles, which trusts nothing in them."""

import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

from fedfs.errors import BundleError, MalformedError
from fedfs.protocol import codec
from fedfs.protocol.layout import check_key
from fedfs.roles.courier.bundle.format import (
    CHUNK_BYTES,
    MAGIC,
    MARK,
    MAX_INDEX_BYTES,
    TRAILER,
    Header,
    Index,
    Item,
)
from fedfs.roles.courier.bundle.parts import Parts, find_parts

_MAX_HEADER_BYTES = 4096


class BundleReader:
    """Reads a bundle that nobody vouches for.

    Args:
        path: the file, or any of its parts.

    Raises:
        UserError: there is no such file.
        BundleError: it is no bundle, or a part of it is missing.
    """

    def __init__(self, path: Path) -> None:
        paths = find_parts(path)
        size = paths[0].stat().st_size if len(paths) > 1 else 0
        self._parts = Parts(paths, size)
        self._file = io.BufferedReader(self._parts)
        try:
            self.header, self._first = self._read_header()
            self._trailer = self._read_trailer()
        except BaseException:
            self._file.close()
            raise
        self.n_bytes = self._parts.size
        self.n_parts = len(paths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def index(self, unseal: Callable[[bytes], bytes] | None = None) -> Index:
        """Return what is in it.

        Args:
            unseal: decrypts, if the bundle is sealed.

        Raises:
            SealedError: this host cannot decrypt it.
            BundleError: it is damaged.
        """
        offset, length, sha256 = self._trailer
        self._file.seek(offset)
        stored = self._read(length)
        if hashlib.sha256(stored).digest() != sha256:
            raise BundleError("is damaged", about="the index")
        data = unseal(stored) if self.header.sealed and unseal else stored
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(data, MAX_INDEX_BYTES + 1)
        except zlib.error as error:
            raise BundleError(f"cannot be read: {error}", about="the index") from error
        if len(text) > MAX_INDEX_BYTES or not unpacker.eof:
            raise BundleError(
                f"is larger than {MAX_INDEX_BYTES} bytes, or cut off", about="the index"
            )
        try:
            index = codec.from_json(Index, codec.loads(text))
        except MalformedError as error:
            raise BundleError(f"is damaged: {error.reason}", about="the index") from error
        self._check(index, end=offset)
        return index

    def open(self, item: Item) -> BinaryIO:
        """Return an object's stored bytes as a file; valid until the next call."""
        return io.BufferedReader(_Window(self._parts, item.offset, item.stored), CHUNK_BYTES)

    def _read_header(self) -> tuple[Header, int]:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise BundleError("is not a bundle of fedfs, or of a later version")
        line = self._file.readline(_MAX_HEADER_BYTES)
        try:
            header = codec.from_json(Header, codec.loads(line.strip()))
        except MalformedError as error:
            raise BundleError(f"is damaged: {error.reason}", about="the header") from error
        return header, len(MAGIC) + len(line)

    def _read_trailer(self) -> tuple[int, int, bytes]:
        end = self._parts.size - TRAILER.size
        if end < self._first:
            raise BundleError("is cut off")
        self._file.seek(end)
        mark, offset, length, sha256 = TRAILER.unpack(self._read(TRAILER.size))
        if mark != MARK or offset + length != end or offset < self._first:
            raise BundleError("is cut off, or its last part is missing")
        if length > MAX_INDEX_BYTES:
            raise BundleError(f"is larger than {MAX_INDEX_BYTES} bytes", about="the index")
        return offset, length, sha256

    def _check(self, index: Index, *, end: int) -> None:
        at, seen = self._first, set()
        for item in index.items:
            try:
                check_key(item.key)
            except MalformedError as error:
                raise BundleError(
                    f"holds something that is not an object: {error.reason}"
                ) from error
            if item.key in seen:
                raise BundleError(f"holds {item.key} twice")
            if item.offset != at or item.stored < 0 or not 0 <= item.size <= item.stored:
                raise BundleError(f"is wrong about where {item.key} is", about="the index")
            seen.add(item.key)
            at += item.stored
        if at != end:
            raise BundleError("holds bytes that its index does not name")

    def _read(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise BundleError("is cut off")
        return data


class _Window(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, file: Parts, offset: int, length: int) -> None:
        super().__init__()
        self._file, self._offset, self._left = file, offset, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._left]
        if not view:
            return 0
        self._file.seek(self._offset)
        n_read = self._file.readinto(view)
        self._offset += n_read
        self._left -= n_read
        return n_read
