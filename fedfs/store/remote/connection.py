"""The connection of a store to a file system of fsspec.

Rules:
 * Nothing is sent before it is needed. A connection that failed is not used again, and a forked
   process makes one of its own.
 * No error of a package passes, nor is it the cause of ours: it may spell out what is secret.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from fedfs.errors import FedfsError, ObjectNotFoundError, StoreError, StoreUnavailableError
from fedfs.store.folder_errors import ABSENT
from fedfs.store.remote.dialect import Dialect


class Connection:
    """File system and root of a store.

    Args:
        place: URL of the store.
        url: the same without a user, for messages.
        dialect: how the file system is spoken to.
        must_exist: refuse a folder that is not there.
    """

    def __init__(self, place: str, url: str, dialect: Dialect, *, must_exist: bool) -> None:
        self._place = place
        self._url = url
        self._dialect = dialect
        self._must_exist = must_exist
        self._lock = threading.Lock()
        self._open: tuple[int, Any, str] | None = None  # process, file system, root

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[tuple[Any, str]]:
        """Yield file system and root, and turn what goes wrong into this project's errors.

        Those which mean that nothing is there are as of the operating system.
        """
        opened = None
        try:
            opened = self.open()
            yield opened[1:]
        except (FedfsError, *ABSENT):
            raise
        except Exception as error:  # noqa: BLE001  any package may be behind
            failure = self._dialect.translate(error, what, self._url)
            if isinstance(failure, ObjectNotFoundError):
                raise FileNotFoundError(what) from None
            if isinstance(failure, StoreUnavailableError):
                with self._lock:
                    if self._open is opened:
                        self._open = None
            raise failure from None

    def open(self) -> tuple[int, Any, str]:
        """Return this process, the file system, and the root without a slash behind it.

        Raises:
            StoreError: it cannot be opened, or its folder is not there.
            Exception: of the package.
        """
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                try:
                    fs, root = self._dialect.open(self._place)
                except ABSENT as error:  # which would mean that an object is not there
                    raise StoreError(
                        f"The store cannot be opened: {error}.",
                        hint="a file of this host that its settings name may be missing",
                        store=self._url,
                    ) from None
                self._open = (os.getpid(), fs, root.rstrip("/"))
                if self._must_exist and not fs.isdir(root):
                    self._open = None
                    raise StoreUnavailableError(
                        "The store's folder is not there.",
                        hint="check the path, and whether the disk of the server is mounted",
                        store=self._url,
                    )
            return self._open
