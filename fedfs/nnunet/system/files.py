"""Small local files that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

_BLOCK_BYTES = 2**20


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, readable by people and by nnU-Net."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    _replace(path, lambda file: file.write(text.encode()))


def copy(source: Path, target: Path) -> None:
    """Copy a file's content."""
    with source.open("rb") as stream:
        _replace(target, lambda file: shutil.copyfileobj(stream, file))


def sync(path: Path) -> None:
    """Make a file that somebody else wrote, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".fedfs-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock in ``path``; wait for another process of this host that holds it.

    The lock is the operating system's and ends with the process; the file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process at %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
