"""Where a federation's files are kept: the seam, and the stores behind it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedfs.errors import UserError
from fedfs.store.base import Entry, Store
from fedfs.store.folder import FolderStore
from fedfs.store.memory import MemoryStore

__all__ = ["Entry", "FolderStore", "MemoryStore", "Store", "open_store"]


def open_store(url: str, *, must_exist: bool = True) -> Store:
    """Open the store that a command line or configuration names.

    Args:
        url: path of a folder, or a ``file://`` URL.
        must_exist: refuse a folder that is not there, such as a share that is not mounted.
            Otherwise the first object written creates the folder.

    Raises:
        UserError: not a place that this version knows.
        StoreError: the folder is not there, or is not a folder.
    """
    hint = "give the path of a folder, for example /mnt/share/study"
    if not url:
        raise UserError("the store is empty text", hint=hint)
    if "\0" in url:
        raise UserError("the store's path holds a NUL character", hint=hint)
    if "://" not in url:
        return FolderStore(Path(url).expanduser(), must_exist=must_exist)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return FolderStore(Path(unquote(parts.path)), must_exist=must_exist)
    if parts.scheme == "file":
        raise UserError(f"{url} names another host", hint="mount the share and give its folder")
    raise UserError(f"{url}: this version keeps its files in folders only", hint=hint)
