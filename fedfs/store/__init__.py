"""Stores for a federation's files: the seam, and folders, S3 and file systems of fsspec behind."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedfs.errors import UserError
from fedfs.store.base import Entry, Store
from fedfs.store.folder import FolderStore
from fedfs.store.memory import MemoryStore
from fedfs.store.place import S3Options, StorePlace, redact
from fedfs.store.retry import RetryingStore

_HINT = "give a folder, for example /mnt/share/study, s3://BUCKET/PREFIX or sftp://HOST/FOLDER"
_NO_PLACES = {"memory", "data", "local"}  # of fsspec, which outlive no process, or are folders


def open_store(place: StorePlace | str, *, must_exist: bool = True) -> Store:
    """Open the store that a command line or configuration names.

    Args:
        place: path of a folder, a ``file://`` URL, an ``s3://`` URL with options of S3, or a URL of
            any file system that a package registers with fsspec.
        must_exist: refuse a folder that is not there, such as a share that is not mounted.
            Otherwise the first object written creates the folder. A bucket must always exist.

    Raises:
        UserError: not a place that is known.
        SetupError: a package that knows it is not installed.
        StoreError: the folder is not there, or is not a folder.

    >>> open_store("/mnt/share/study", must_exist=False).url
    'file:///mnt/share/study'
    """
    if isinstance(place, str):
        place = StorePlace(place)
    url = place.url
    if not url:
        raise UserError("The store is empty text.", hint=_HINT)
    if "\0" in url:
        raise UserError("The store's path holds a NUL character.", hint=_HINT)
    if url.startswith("s3://"):
        from fedfs.store.s3.store import S3Store  # noqa: PLC0415  users of folders need no S3 client

        return RetryingStore(S3Store(url, place.s3))
    if "://" not in url:
        return FolderStore(Path(url).expanduser(), must_exist=must_exist)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return FolderStore(Path(unquote(parts.path)), must_exist=must_exist)
    if parts.scheme == "file":
        raise UserError(f"{url} names another host.", hint="mount the share and give its folder")
    if parts.scheme in ("http", "https"):
        hint = "give s3://BUCKET/PREFIX, and the server's URL as the S3 endpoint"
        raise UserError(f"{redact(url)} is no store.", hint=hint)
    if parts.scheme in _NO_PLACES:
        raise UserError(f"{redact(url)} is no place that other processes see.", hint=_HINT)
    from fedfs.store.remote.store import FsspecStore  # noqa: PLC0415  as S3 above

    return RetryingStore(FsspecStore(url, must_exist=must_exist))
