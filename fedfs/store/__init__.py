"""Where a federation's files are kept: the seam, and the stores behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fedfs.errors import UserError
from fedfs.store.base import Entry, Store
from fedfs.store.folder import FolderStore
from fedfs.store.memory import MemoryStore
from fedfs.store.retry import RetryingStore

__all__ = [
    "Entry", "FolderStore", "MemoryStore", "RetryingStore", "Store", "StorePlace", "open_store",
]  # fmt: skip

_HINT = "give a folder, for example /mnt/share/study, or a bucket, for example s3://bucket/study"


@dataclass(frozen=True)
class StorePlace:
    """Where a store is, as a command line says it.

    Attributes:
        url: path of a folder, a ``file://`` URL, or ``s3://bucket/prefix``.
        s3: options of :class:`fedfs.store.s3.S3Options` that were given.
    """

    url: str
    s3: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.url


def open_store(place: StorePlace | str, *, must_exist: bool = True) -> Store:
    """Open the store that a command line or configuration names.

    Args:
        place: where it is.
        must_exist: refuse a folder that is not there, such as a share that is not mounted.
            Otherwise the first object written creates the folder.

    Raises:
        UserError: not a place that this version knows.
        StoreError: the folder is not there, or is not a folder.
    """
    url, s3 = (place, {}) if isinstance(place, str) else (place.url, place.s3)
    if not url:
        raise UserError("the store is empty text", hint=_HINT)
    if "\0" in url:
        raise UserError("the store's path holds a NUL character", hint=_HINT)
    if "://" not in url:
        return FolderStore(Path(url).expanduser(), must_exist=must_exist)
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from fedfs.store.s3 import S3Options, S3Store  # noqa: PLC0415  takes a second to import

        return RetryingStore(S3Store(url, S3Options(**s3)))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return FolderStore(Path(unquote(parts.path)), must_exist=must_exist)
    if parts.scheme == "file":
        raise UserError(f"{url} names another host", hint="mount the share and give its folder")
    raise UserError(f"fedfs keeps its files in folders and S3 buckets, not at {url}", hint=_HINT)
