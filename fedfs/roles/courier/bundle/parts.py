"""One file in parts of equal size, as a stick with FAT32 needs it."""

import glob
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from fedfs.errors import BundleError, SetupError, UserError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(|[kMGT])B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SMALLEST_PART = 1000


def parse_size(text: str) -> int:
    """Return bytes of a size as people write it: ``4GB``, ``650 MB``.

    Raises:
        UserError: it is none, or too small for a part.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or (size := int(float(match[1]) * _UNITS[match[2]])) < _SMALLEST_PART:
        raise UserError(f"{text!r} is no size of a part.", hint="for example 4GB or 650MB")
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
            raise SetupError(
                f"{error.filename} cannot be opened: {error.strerror}.",
                hint="check the path and its permissions; is the stick mounted?",
            ) from error
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self.size = sum(sizes)
        if part_bytes and any(size != part_bytes for size in sizes[:-1]):
            self.close()
            raise BundleError(
                "has parts that are not of equal size: one is damaged or of another bundle"
            )

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def writable(self) -> bool:
        """Return True if it was opened to append."""
        return self._mode != "rb"

    def seekable(self) -> bool:
        """Return True: it can be read at any place."""
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
    parts = sorted(whole.parent.glob(f"{glob.escape(whole.name)}.[0-9][0-9][0-9]"))
    if numbered or not whole.exists():
        if not parts:
            raise UserError(
                f"There is no bundle {path}.", hint="check the path; is the stick mounted?"
            )
        numbers = [int(part.suffix[1:]) for part in parts]
        missing = sorted(set(range(1, numbers[-1] + 1)) - set(numbers))
        if missing:
            raise BundleError(
                "is not here",
                about=f"the part {whole.name}.{missing[0]:03d}",
                hint="put all parts into one folder",
            )
        return parts
    return [whole]
