"""Errors of the operating system about a folder, as errors of a store."""

import contextlib
import errno
import os
from collections.abc import Iterator

from fedfs.errors import (
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Nothing is there."""
_RIVAL = "does a second process run in the same role?"
_REASONS: dict[int, tuple[type[StoreError], str, str]] = {
    errno.ENOSPC: (StoreFullError, "no space is left", "free some space on the store"),
    errno.EDQUOT: (StoreFullError, "the quota is used up", "free some space, or raise the quota"),
    errno.EROFS: (StorePermissionError, "the store is read-only", "mount it for writing"),
    errno.EACCES: (StorePermissionError, "access is denied", "check the folder's permissions"),
    errno.EPERM: (StorePermissionError, "it is not permitted", "check the folder's permissions"),
    errno.EDEADLK: (StoreUnavailableError, "another writer keeps its name locked", _RIVAL),
}
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN",
        "EHOSTUNREACH", "EINTR", "EIO", "ENETDOWN", "ENETUNREACH", "ENODEV", "ENOLINK", "ENOTCONN",
        "EPIPE", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors of a share whose server, line or mount has gone, which may come back."""


@contextlib.contextmanager
def translated(what: str, verb: str, *, store: str) -> Iterator[None]:
    """Turn errors of the operating system into this project's.

    Those which mean that nothing is there pass through, except to a writer.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ABSENT) and verb != "written":
            raise
        code = error.errno or errno.EIO
        of_share = StoreUnavailableError if code in PASSING else StoreError
        default = (of_share, os.strerror(code), "check the share, its mount and its server")
        kind, reason, hint = _REASONS.get(code, default)
        text = f"{what} cannot be {verb}: {reason}."
        raise kind(text, hint=hint, store=store) from error


def foreign(what: str, store: str) -> StoreError:
    """Return the error of a name that leads out of the store, or is no file."""
    return StoreError(
        f"{what} is a symbolic link or a device, not a file of the store.",
        hint="links could lead out of the store; put a copy there instead",
        store=store,
    )
