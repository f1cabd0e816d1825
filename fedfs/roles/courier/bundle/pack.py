"""Writer of bundles, which goes on where an export broke off."""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from fedfs.errors import MalformedError, SetupError, UserError
from fedfs.protocol import codec
from fedfs.roles.courier.bundle.format import MAGIC, MARK, TRAILER, Header, Index, Item
from fedfs.roles.courier.bundle.parts import Parts

_PARTIAL = ".partial"


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
            raise UserError(f"{taken[0]} exists already.", hint="choose another name, or remove it")
        self._path, self._part_bytes = path, part_bytes
        self._journal = path.with_name(f"{path.name}{_PARTIAL}.json")
        self._identity = [header.study, header.site, header.direction, part_bytes, *recipients]
        try:
            kept = self._recall(wanted)
            self._file = Parts(self._partials(), part_bytes, mode="r+b", name=self._partial)
            self._end = kept[-1].offset + kept[-1].stored if kept else 0
            if self._end > self._file.size:
                kept, self._end = [], 0
            self._file.truncate(self._end)
            if not kept:
                self._file.seek(0)
                self._file.write(MAGIC + codec.dumps(codec.to_json(header)) + b"\n")
                self._end = self._file.tell()
            lines = [self._identity, *map(codec.to_json, kept)]
            self._journal.write_bytes(b"".join(codec.dumps(line) + b"\n" for line in lines))
        except OSError as error:
            raise self._failed(error) from error
        self._items = {item.key: item for item in kept}
        self.n_kept = len(kept)

    def __contains__(self, key: str) -> bool:
        """Return True if the object is in the bundle already."""
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
        trailer = TRAILER.pack(MARK, self._end, len(stored), hashlib.sha256(stored).digest())
        try:
            self._file.seek(self._end)
            self._file.write(stored + trailer)
            self._file.sync()
            self._file.close()
            partials = self._partials()
            paths = [path.with_name(path.name.removesuffix(_PARTIAL)) for path in partials]
            for partial, path in zip(partials, paths, strict=True):
                partial.replace(path)
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return paths

    def close(self) -> None:
        """Leave off; a later export goes on."""
        self._file.close()

    def _partial(self, number: int) -> Path:
        suffix = f".{number + 1:03d}" if self._part_bytes else ""
        return self._path.with_name(f"{self._path.name}{suffix}{_PARTIAL}")

    def _partials(self) -> list[Path]:
        """Return the partial files that are there."""
        numbers = itertools.count() if self._part_bytes else range(1)
        return list(itertools.takewhile(Path.exists, map(self._partial, numbers)))

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

    def _failed(self, error: OSError) -> SetupError:
        return SetupError(
            f"{self._path} cannot be written: {error.strerror or error}.",
            hint="make room, or choose another place; an export that is begun again goes on",
        )
