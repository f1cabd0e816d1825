"""Small local files that are complete or absent, whatever happens while they are written."""

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedfs.store.local_files import file_sha256, replacing, sync

__all__ = ["copy", "exclusive", "file_sha256", "json_sha256", "sync", "write_json"]

log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, readable by people and by nnU-Net."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file's content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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
