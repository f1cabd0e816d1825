"""Local files that are complete or absent, and their hashes: the one way to write and to hash one.

All rooms that write files stand on this one; it knows nothing of stores.
"""

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from fedfs.errors import SetupError

CHUNK_BYTES = 1 << 20
"""Memory that copying takes, whatever the size of the object."""

_on_bytes: ContextVar[Callable[[int], None]] = ContextVar("_on_bytes", default=lambda _: None)

NO_SYNC = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}
)
"""Errors of file systems on which the entries of a folder cannot be synchronised."""


NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
"""Failures of ``link`` which mean that the file system knows no links."""


def temporary_name() -> str:
    """Return a new name for a file that is not finished; stores sweep what is left of them."""
    return f".fedfs-{uuid.uuid4().hex}.tmp"


def create_secret(path: Path, data: bytes) -> None:
    """Create a file that only this user can read, whole or not at all.

    Raises:
        FileExistsError: there is one, which stays.
        OSError: it cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(temporary_name())
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            temporary.rename(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_names(path.parent)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, synced: bool = True) -> Iterator[Path]:
    """Yield a path to write to; what is there when the block ends takes the name ``path``.

    Whoever reads ``path`` sees the old file or the new one, also after a crash or a power cut. If
    the block raises, the old file stays, and the new one is removed.

    Args:
        path: file to write or to replace; its folder exists.
        durable: also wait until the new name is on the disk. A cache does without: a name that a
            power cut takes back means another download.
        synced: also wait until the content is. What is compared with a hash before it is used
            does without.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "plan.json")) as temporary:
    ...         _ = temporary.write_text("{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['plan.json']
    """
    # A name that the folder store sweeps away, should the process be killed beside its objects.
    temporary = path.with_name(temporary_name())
    try:
        yield temporary
        # Before the name: a file system may write names before contents, and a power cut in between
        # would leave an empty file under the right name.
        if synced:
            sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    if durable:
        sync_names(path.parent)


def sync(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where its file system can."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file.

    >>> file_sha256(Path(os.devnull))[:8]
    'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_local(path: Path) -> Iterator[BinaryIO]:
    """Open the local file of an upload.

    Raises:
        SetupError: it is missing or unreadable.
    """
    with _local_errors(path, "read"):
        file = path.open("rb")
    with file:
        yield file


@contextlib.contextmanager
def counting_bytes(on_bytes: Callable[[int], None]) -> Iterator[None]:
    """Call ``on_bytes`` with how much of local files this thread reads and writes meanwhile."""
    token = _on_bytes.set(on_bytes)
    try:
        yield
    finally:
        _on_bytes.reset(token)


def local_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file of :func:`open_local` from its beginning, :data:`CHUNK_BYTES` at a time.

    Raises:
        SetupError: reading fails.
    """
    with _local_errors(file.name, "read"):
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            _on_bytes.get()(len(chunk))


def write_local(path: Path, chunks: Iterator[bytes], *, synced: bool = True) -> None:
    """Write a download to ``path``, where it appears whole or not at all.

    Args:
        path: file to write.
        chunks: its content.
        synced: as :func:`replacing` says.

    Raises:
        SetupError: it cannot be written. Whatever ``chunks`` raises passes through.
    """
    with (
        _local_errors(path, "written"),  # the store's errors are none of the operating system's
        replacing(path, durable=False, synced=synced) as temporary,
        temporary.open("xb") as file,
    ):
        for chunk in chunks:
            file.write(chunk)
            _on_bytes.get()(len(chunk))


@contextlib.contextmanager
def _local_errors(path: Path | str, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{path} on this host cannot be {verb}: {error.strerror or error}.",
            hint="check the path, its permissions and the free space",
        ) from error
