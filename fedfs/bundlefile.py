r"""The format of a bundle: objects of a store in one file, or in parts of it, for a stick.

::

    fedfs-bundle 1\n
    {"created_at": ..., "direction": ..., "sealed": ..., "site": ..., "study": ...}\n
    objects, one after the other
    index: zlib-compressed JSON, which names them
    64 bytes: where the index is, its length, its SHA-256; the file's last bytes

Rules:
 * With encryption, each object and the index are age files of their own: an object is found without
   reading the others, and an export that broke off goes on behind the last whole one.
 * There are no paths in a bundle: an object is named by its key, and keys are checked by
   :func:`fedfs.protocol.layout.check_key`.
 * The header is for people; nothing is decided by it but which keys may open the index, and nothing
   in a bundle is believed because of it.
 * Split, the parts ``NAME.001``, ``NAME.002``, ... are the pieces of that one file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from fedfs.errors import BundleError, MalformedError, SetupError, UserError
from fedfs.protocol import codec
from fedfs.protocol.layout import check_key

MAGIC = b"fedfs-bundle 1\n"
CHUNK_BYTES = 1 << 20
MAX_INDEX_BYTES = 64 << 20
"""Of an index, as it is written and as it is read: that of 100,000 objects has 20 MB."""

_TRAILER = struct.Struct(">8sQQ8x32s")
_MARK = b"fedfs-ix"
_MAX_HEADER_BYTES = 4096
_PARTIAL = ".partial"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(|[kMGT])B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SMALLEST_PART = 1000


@dataclass(frozen=True)
class Header:
    """What a bundle says of itself, for people.

    Attributes:
        study: id of the study.
        site: the site that it is for or from.
        direction: ``for`` a site or ``from`` it.
        created_at: UTC.
        sealed: whether it is encrypted.
    """

    study: str
    site: str
    direction: str
    created_at: str
    sealed: bool


@dataclass(frozen=True)
class Item:
    """An object in a bundle: its key, size and SHA-256; where it is stored, in how many bytes."""

    key: str
    size: int
    sha256: str
    offset: int
    stored: int


@dataclass(frozen=True)
class Index:
    """What is in a bundle, and what its sender's store holds.

    Attributes:
        items: objects, in the order in which they are to be published.
        has: keys that the sender's store holds of what the other side writes, or needs not send.
    """

    items: tuple[Item, ...]
    has: tuple[str, ...] = ()


def parse_size(text: str) -> int:
    """Return bytes of a size as people write it: ``4GB``, ``650 MB``.

    Raises:
        UserError: it is none, or too small for a part.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or (size := int(float(match[1]) * _UNITS[match[2]])) < _SMALLEST_PART:
        raise UserError(f"{text!r} is no size of a part", hint="for example 4GB or 650MB")
    return size


class Parts(io.RawIOBase):
    """One file in parts of equal size, the last one shorter; or a single file.

    Args:
        paths: of the parts, in order.
        part_bytes: size of all but the last; 0 for a single file.
        mode: ``rb``, or ``r+b`` to append, which makes new parts as ``name(number)``.
        name: of the part with a number.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        part_bytes: int = 0,
        *,
        mode: str = "rb",
        name: Callable[[int], Path] | None = None,
    ) -> None:
        super().__init__()
        self._files: list[BinaryIO] = []
        self._part_bytes = part_bytes
        self._mode, self._name = mode, name
        self._at = 0
        try:
            for path in paths:
                self._files.append(path.open(mode))  # type: ignore[arg-type]
        except OSError as error:
            self.close()
            raise SetupError(f"{path} cannot be opened: {error.strerror}") from error
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self.size = sum(sizes)
        if part_bytes and any(size != part_bytes for size in sizes[:-1]):
            self.close()
            raise BundleError(
                "its parts are not of equal size: one is damaged or of another bundle"
            )

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def writable(self) -> bool:
        """Whether it can be written."""
        return self._mode != "rb"

    def seekable(self) -> bool:
        """Whether it can be read anywhere."""
        return True

    def tell(self) -> int:
        """Return the place in the whole."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the whole."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read on, at most to the end of a part."""
        number, inside, room = self._place()
        if number >= len(self._files):
            return 0
        view = memoryview(buffer)[: min(len(buffer), room)] if room else memoryview(buffer)
        file = self._files[number]
        file.seek(inside)
        n_read = file.readinto(view)  # type: ignore[attr-defined]
        self._at += n_read
        return int(n_read)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write on, into as many parts as it takes."""
        view, written = memoryview(data), 0
        while written < len(view):
            number, inside, room = self._place()
            if number == len(self._files) and self._name is not None:
                self._files.append(self._name(number).open("w+b"))
            piece = view[written : written + room] if room else view[written:]
            file = self._files[number]
            file.seek(inside)
            file.write(piece)
            written += len(piece)
            self._at += len(piece)
        self.size = max(self.size, self._at)
        return written

    def sync(self) -> None:
        """Make what was written durable."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close all parts."""
        for file in self._files:
            file.close()
        super().close()

    def truncate(self, size: int | None = None) -> int:
        """Cut what is behind a place; parts that become empty are removed."""
        size = self._at if size is None else size
        n_parts = max(1, -(-size // self._part_bytes)) if self._part_bytes else 1
        for file in self._files[n_parts:]:
            file.close()
            Path(file.name).unlink()
        del self._files[n_parts:]
        if self._files:
            last = size - (n_parts - 1) * self._part_bytes if self._part_bytes else size
            self._files[-1].truncate(last)
        self.size = size
        return size

    def _place(self) -> tuple[int, int, int]:
        """Return the part of the present place, the place in it, and the room left (0: no end)."""
        if not self._part_bytes:
            return 0, self._at, 0
        number, inside = divmod(self._at, self._part_bytes)
        return number, inside, self._part_bytes - inside


def find_parts(path: Path) -> list[Path]:
    """Return the files of a bundle: itself, or its parts, of which any may be named.

    Raises:
        UserError: there is nothing.
        BundleError: a part is missing.
    """
    numbered = re.fullmatch(r"(.+)\.[0-9]{3}", path.name)
    whole = path.with_name(numbered[1]) if numbered else path
    parts = sorted(whole.parent.glob(f"{_escape(whole.name)}.[0-9][0-9][0-9]"))
    if numbered or not whole.exists():
        if not parts:
            raise UserError(f"there is no bundle {path}")
        numbers = [int(part.suffix[1:]) for part in parts]
        missing = sorted(set(range(1, numbers[-1] + 1)) - set(numbers))
        if missing:
            raise BundleError(
                f"part {whole.name}.{missing[0]:03d} is not here",
                hint="put all parts into one folder",
            )
        return parts
    return [whole]


def _escape(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


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
        self._file = Parts(paths, size)
        try:
            self.header, self._first = self._read_header()
            self._trailer = self._read_trailer()
        except BaseException:
            self._file.close()
            raise
        self.n_bytes = self._file.size
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
            raise BundleError("its index is damaged")
        data = unseal(stored) if self.header.sealed and unseal else stored
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(data, MAX_INDEX_BYTES + 1)
        except zlib.error as error:
            raise BundleError(f"its index cannot be read: {error}") from error
        if len(text) > MAX_INDEX_BYTES or not unpacker.eof:
            raise BundleError(f"its index is larger than {MAX_INDEX_BYTES} bytes, or cut off")
        try:
            index = codec.from_json(Index, codec.loads(text))
        except MalformedError as error:
            raise BundleError(f"its index is damaged: {error}") from error
        self._check(index, end=offset)
        return index

    def open(self, item: Item) -> BinaryIO:
        """Return an object's stored bytes as a file; valid until the next call."""
        self._file.seek(item.offset)
        return io.BufferedReader(_Window(self._file, item.offset, item.stored), CHUNK_BYTES)

    def _read_header(self) -> tuple[Header, int]:
        start = self._read(len(MAGIC), lenient=True)
        if start != MAGIC:
            raise BundleError("is no bundle of fedfs, or of a later version")
        line = b""
        while not line.endswith(b"\n") and len(line) < _MAX_HEADER_BYTES:
            piece = self._read(1, lenient=True)
            if not piece:
                break
            line += piece
        try:
            header = codec.from_json(Header, codec.loads(line.strip()))
        except MalformedError as error:
            raise BundleError(f"its header is damaged: {error}") from error
        return header, len(MAGIC) + len(line)

    def _read_trailer(self) -> tuple[int, int, bytes]:
        end = self._file.size - _TRAILER.size
        if end < self._first:
            raise BundleError("is cut off")
        self._file.seek(end)
        mark, offset, length, sha256 = _TRAILER.unpack(self._read(_TRAILER.size))
        if mark != _MARK or offset + length != end or offset < self._first:
            raise BundleError("is cut off, or its last part is missing")
        if length > MAX_INDEX_BYTES:
            raise BundleError(f"its index is larger than {MAX_INDEX_BYTES} bytes")
        return offset, length, sha256

    def _check(self, index: Index, *, end: int) -> None:
        at, seen = self._first, set()
        for item in index.items:
            try:
                check_key(item.key)
            except MalformedError as error:
                raise BundleError(f"holds something that is no object: {error}") from error
            if item.key in seen:
                raise BundleError(f"holds {item.key} twice")
            if item.offset != at or item.stored < 0 or not 0 <= item.size <= item.stored:
                raise BundleError(f"its index is wrong about where {item.key} is")
            seen.add(item.key)
            at += item.stored
        if at != end:
            raise BundleError("holds bytes that its index does not name")

    def _read(self, n_bytes: int, *, lenient: bool = False) -> bytes:
        out = b""
        while len(out) < n_bytes:
            piece = self._file.read(n_bytes - len(out))
            if not piece:
                break
            out += piece
        if len(out) < n_bytes and not lenient:
            raise BundleError("is cut off")
        return out


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


class BundleWriter:
    """Writes a bundle beside its name, and gives it its name when it is whole.

    An export that broke off goes on: objects that its partial file holds, and that are wanted
    still by the same recipients, are not written again.

    Args:
        path: where it goes; ``path.001``, ... in parts.
        header: what it says of itself.
        wanted: key -> SHA-256 of all objects that are to go in.
        part_bytes: size of parts; 0 for one file.
        recipients: names for whom it is sealed; a partial file for others is begun anew.

    Raises:
        UserError: there is something of that name.
        SetupError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        wanted: Mapping[str, str],
        *,
        part_bytes: int = 0,
        recipients: Sequence[str] = (),
    ) -> None:
        taken = [p for p in (path, path.with_name(f"{path.name}.001")) if p.exists()]
        if taken:
            raise UserError(f"{taken[0]} exists already", hint="choose another name, or remove it")
        self._path, self._part_bytes = path, part_bytes
        self._journal = path.with_name(f"{path.name}{_PARTIAL}.json")
        self._identity = [header.study, header.site, header.direction, part_bytes, *recipients]
        try:
            kept = self._recall(wanted)
            present = [self._partial(n) for n in range(self._count_partials())]
            self._file = Parts(present, part_bytes, mode="r+b", name=self._partial)
            if kept and kept[-1].offset + kept[-1].stored > self._file.size:
                kept = []
            if kept:
                self._end = kept[-1].offset + kept[-1].stored
                self._file.truncate(self._end)
            else:
                self._file.truncate(0)
                self._file.seek(0)
                self._file.write(MAGIC + codec.dumps(codec.to_json(header)) + b"\n")
                self._end = self._file.tell()
            self._write_journal(kept)
        except OSError as error:
            raise self._failed(error) from error
        self._items = {item.key: item for item in kept}
        self.n_kept = len(kept)

    def __contains__(self, key: str) -> bool:
        """Whether an object is in it already."""
        return key in self._items

    def add(self, key: str, size: int, sha256: str, write: Callable[[BinaryIO], None]) -> None:
        """Append an object.

        Args:
            key: its key.
            size: its bytes.
            sha256: their hash.
            write: writes them, sealed or not.

        Raises:
            SetupError: there is no room.
        """
        try:
            self._file.seek(self._end)
            write(self._file)  # type: ignore[arg-type]  # as good as a BinaryIO
            self._file.sync()
            stored = self._file.tell() - self._end
            item = self._items[key] = Item(key, size, sha256, self._end, stored)
            self._end += stored
            with self._journal.open("ab") as journal:
                journal.write(codec.dumps(codec.to_json(item)) + b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, has: Sequence[str], seal: Callable[[bytes], bytes] | None) -> list[Path]:
        """Write the index, give the bundle its name; return its files.

        Args:
            has: keys that this side holds of what the other one writes.
            seal: encrypts the index; None to leave it open.

        Raises:
            SetupError: there is no room.
        """
        index = Index(tuple(self._items.values()), tuple(has))
        data = zlib.compress(codec.dumps(codec.to_json(index)), 9)
        stored = seal(data) if seal else data
        trailer = _TRAILER.pack(_MARK, self._end, len(stored), hashlib.sha256(stored).digest())
        try:
            self._file.seek(self._end)
            self._file.write(stored + trailer)
            self._file.sync()
            self._file.close()
            if not self._part_bytes:
                self._partial(0).replace(self._path)
                made = [self._path]
            else:
                made = [self._path.with_name(f"{self._path.name}.{n + 1:03d}")
                        for n in range(self._count_partials())]  # fmt: skip
                for number, path in enumerate(made):
                    self._partial(number).replace(path)
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return made

    def close(self) -> None:
        """Leave off; a later export goes on."""
        self._file.close()

    def _partial(self, number: int) -> Path:
        suffix = f".{number + 1:03d}" if self._part_bytes else ""
        return self._path.with_name(f"{self._path.name}{suffix}{_PARTIAL}")

    def _count_partials(self) -> int:
        number = 0
        while self._partial(number).exists() and (self._part_bytes or number == 0):
            number += 1
        return number

    def _recall(self, wanted: Mapping[str, str]) -> list[Item]:
        """Return what the partial file holds of what is wanted, up to the first that is not."""
        items: list[Item] = []
        try:
            lines = self._journal.read_bytes().splitlines()
            if codec.loads(lines[0]) != self._identity:
                return []
            for line in lines[1:]:
                item = codec.from_json(Item, codec.loads(line))
                if wanted.get(item.key) != item.sha256:
                    break
                items.append(item)
        except (FileNotFoundError, IndexError, MalformedError):
            return items  # the last line may be half a line
        return items

    def _write_journal(self, items: Sequence[Item]) -> None:
        lines = [self._identity, *map(codec.to_json, items)]
        self._journal.write_bytes(b"".join(codec.dumps(line) + b"\n" for line in lines))

    def _failed(self, error: OSError) -> SetupError:
        return SetupError(
            f"{self._path} cannot be written: {error.strerror or error}",
            hint="make room, or choose another place; an export that is begun again goes on",
        )
