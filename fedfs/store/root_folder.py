"""The root of a folder store, and the way down from it.

Rules:
 * Names are resolved one folder at a time from the root, and a symbolic link is never followed, so
   nobody who can write to the share leads a reader out of it. The root itself may be a link.
 * A share that went away is a store that cannot be reached now, never an empty one: nothing is read
   or made beneath a folder that has lost what this process has seen in it, such as a mount point
   that is not mounted.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedfs.errors import StoreError, StoreUnavailableError
from fedfs.store import posix
from fedfs.store.folder_errors import foreign

_MOUNTED = "is the share mounted?"


class RootFolder:
    """The folder of a store.

    Args:
        path: the folder.
        url: of the store.
        must_exist: refuse to work without it; otherwise what is written first creates it.
    """

    def __init__(self, path: Path, url: str, *, must_exist: bool) -> None:
        self.path = path
        self._url = url
        self._must_exist = must_exist
        self._seen: set[str] = set()

    @contextlib.contextmanager
    def folder(self, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Go down from the root and yield a descriptor of the folder, good for ``dir_fd``."""
        fd = self.open(create=create)
        try:
            if not names or posix.is_free(names[0], fd):
                self._require_seen(fd)
            for name in names:
                if create and posix.is_free(name, fd):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                        posix.sync_folder(fd)
                child = self._step(name, fd)
                os.close(fd)
                fd = child
            self._seen.update(names[:1])
            yield fd
        finally:
            os.close(fd)

    def _step(self, name: str, folder: int) -> int:
        try:
            return os.open(name, posix.STEP_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    raise foreign(name, self._url) from error
            raise

    def open(self, *, create: bool) -> int:
        """Return a descriptor of the root, good for ``dir_fd``.

        Args:
            create: make it if it is not there, unless it must exist.

        Raises:
            StoreUnavailableError: it is not there and must be.
            StoreError: it is not a folder.
            OSError: it cannot be opened or made.
        """
        try:
            if create and not self._must_exist:
                self.path.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, posix.STEP_FLAGS & ~os.O_NOFOLLOW)
        except FileNotFoundError as error:
            if not self._must_exist:
                raise
            raise StoreUnavailableError(
                "The store's folder is not there.", hint=_MOUNTED, store=self._url
            ) from error
        except (NotADirectoryError, FileExistsError) as error:
            raise StoreError(
                "The store is not a folder.", hint="give a folder", store=self._url
            ) from error
        self._must_exist = True  # what was there once is not made anew
        return fd

    def _require_seen(self, root: int) -> None:
        """Check that what this process has seen in the store's folder is still there.

        Raises:
            StoreUnavailableError: it is not.
        """
        for name in sorted(self._seen):
            if posix.is_free(name, root):
                raise StoreUnavailableError(
                    f"The store's folder has lost {name}, which was there before.",
                    hint=_MOUNTED,
                    store=self._url,
                )
