"""Hash of a file, made while it is read or written."""

import hashlib
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from fedfs.errors import BundleError

_HASHED_BEHIND = 4
"""Pieces that may wait to be hashed."""


class Hashing(io.RawIOBase):
    """Reads or writes ``file``, hashes its bytes, and stops where there are too many.

    Hashing takes as long as writing, so a thread does it.
    """

    def __init__(self, max_bytes: int, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._hashed: deque[Future[None]] = deque()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """Hex digest of what has passed; nothing may pass after it."""
        self._pool.shutdown()
        return self._hash.hexdigest()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def writable(self) -> bool:
        """It can be written."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read from the file; hash what was read."""
        n_read = int(self.file.readinto(buffer))  # type: ignore[attr-defined]
        self._pass(memoryview(buffer)[:n_read])
        return n_read

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Hash, and write to the file."""
        self._pass(memoryview(data))
        self.file.write(data)
        return len(data)

    def _pass(self, data: memoryview) -> None:
        self.n_bytes += len(data)
        if self.n_bytes > self._max_bytes:
            raise BundleError(f"holds more than the {self._max_bytes} bytes that its index names")
        if len(self._hashed) == _HASHED_BEHIND:
            self._hashed.popleft().result()
        self._hashed.append(self._pool.submit(self._hash.update, bytes(data)))
