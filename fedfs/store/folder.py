"""A store in a folder: local, or shared through NFS, SMB or a FUSE mount.

Written on ``os``, because fsspec's local files promise neither atomic creation nor whole files to
readers. POSIX only.

Rules, beside those of :mod:`fedfs.store.root_folder`:
 * An object is written to a hidden file beside its place, synchronised, and then given its name by
   ``link``, which fails if the name is taken: readers see all of it or nothing, one writer wins.
   Where the share has no links, :func:`fedfs.store.posix.rename_exclusively` does the same under
   a lock. Links and locks do not see each other: all writers of one key must use the same.
 * Folders that were made for an object which then could not be written stay: listings do not show
   them, and removing them would race with other writers.
"""

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from fedfs.protocol.layout import check_key
from fedfs.store import local_files, posix
from fedfs.store.base import Entry, Store, check_prefix, is_key
from fedfs.store.folder_errors import ABSENT, foreign, translated
from fedfs.store.root_folder import RootFolder

_log = logging.getLogger(__name__)

_SWEEP_EVERY_S = 3600.0
_SCRATCH, _SCRATCH_STALE_S = ".fedfs-scratch-", 86_400.0
_OPEN_AGAIN_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Linux keeps a file of SMB open for a second after it was closed, and Samba lets a client hold it
open under one name only."""


class FolderStore(Store):
    """Objects as files beneath ``root``."""

    def __init__(
        self,
        root: Path,
        *,
        must_exist: bool = True,
        use_links: bool | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open the folder.

        Args:
            root: the folder.
            must_exist: refuse to work without the folder, as when a share is not mounted;
                otherwise the first object written creates it.
            use_links: False if the share has no links, or another writer's mount of it has none;
                None to find out with the first object.
            pause: waits so many seconds for another writer's lock.

        Raises:
            StoreUnavailableError: ``root`` is missing.
            StoreError: it is not a folder.
        """
        self.url = root.absolute().as_uri()
        self._root = RootFolder(root.absolute(), self.url, must_exist=must_exist)
        self._links = use_links
        self._pause = pause
        self._swept_s: dict[str, float] = {}
        with contextlib.suppress(FileNotFoundError), self._errors("the store", "opened"):
            os.close(self._root.open(create=False))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        with self._open_object(check_key(key)) as fd:
            return b"".join(self._read(fd, key, max_bytes))

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        return self._publish(check_key(key), lambda: (data,))

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        check_key(key)
        with local_files.open_local(path) as file:
            return self._publish(key, partial(local_files.local_chunks, file))

    def adopt(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.adopt`."""
        *folders, name = check_key(key).split("/")
        if self._links is not False:
            with self._errors(key, "written"), self._root.folder(folders, create=True) as folder:
                local_files.sync(path)
                try:
                    os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError:  # upload compares, unless there is nothing to compare
                    if posix.is_same(path, name, folder):
                        return False
                except OSError as error:
                    # EIO: of a mount without links; upload tells it from a share that went away.
                    if error.errno not in {errno.EXDEV, errno.EIO, *local_files.NO_LINKS}:
                        raise
                else:
                    posix.sync_folder(folder)
                    return True
        return self.upload(key, path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See :meth:`fedfs.store.base.Store.scratch`; beside the objects, hidden from listings."""
        with self._errors("the store", "written"):
            os.close(self._root.open(create=True))
            for old in self._root.path.glob(f"{_SCRATCH}*"):  # of an import that was killed
                if time.time() - old.stat().st_mtime > _SCRATCH_STALE_S:
                    shutil.rmtree(old, ignore_errors=True)
            folder = tempfile.mkdtemp(prefix=_SCRATCH, dir=self._root.path)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        with self._open_object(check_key(key)) as fd:
            local_files.write_local(path, self._read(fd, key, max_bytes), synced=False)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        return self._walk(check_prefix(prefix), after)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        *folders, name = check_key(key).split("/")
        with (
            contextlib.suppress(*ABSENT),
            self._errors(key, "deleted"),
            self._root.folder(folders) as folder,
        ):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                os.unlink(name, dir_fd=folder)
            elif not stat.S_ISDIR(mode):
                raise foreign(key, self.url)

    def remove_empty_folder(self, prefix: str) -> None:
        """See :meth:`fedfs.store.base.Store.remove_empty_folder`."""
        *folders, name = check_prefix(prefix).split("/")[:-1]
        with contextlib.suppress(OSError), self._root.folder(folders) as folder:
            os.rmdir(name, dir_fd=folder)

    def watch_path(self) -> Path:
        """See :meth:`fedfs.store.base.Store.watch_path`."""
        return self._root.path

    def _errors(self, what: str, verb: str) -> contextlib.AbstractContextManager[None]:
        return translated(what, verb, store=self.url)

    @contextlib.contextmanager
    def _open_object(self, key: str) -> Iterator[int]:
        *folders, name = key.split("/")
        try:
            with self._errors(key, "read"), self._root.folder(folders) as folder:
                fd = self._open_regular(key, name, folder)
        except ABSENT:
            raise self._not_found(key) from None
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_regular(self, key: str, name: str, folder: int) -> int:
        try:
            fd = self._open_again(name, folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise foreign(key, self.url) from error
            raise
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        raise foreign(key, self.url)

    def _open_again(self, name: str, folder: int) -> int:
        """Open a file; on SMB that fails while it is open under its writer's temporary name.

        Raises:
            OSError: it cannot be opened; EBUSY if it is open under another name all the time.
        """
        for pause_s in (*_OPEN_AGAIN_S, None):
            try:
                return os.open(name, posix.READ_FLAGS, dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            if pause_s is not None:
                self._pause(pause_s)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)

    def _read(self, fd: int, key: str, max_bytes: int) -> Iterator[bytes]:
        with self._errors(key, "read"):
            if os.fstat(fd).st_size > max_bytes:
                raise self._too_large(key, max_bytes)
        left = max_bytes + 1
        while True:
            with self._errors(key, "read"):
                chunk = os.read(fd, min(left, local_files.CHUNK_BYTES))
            if not chunk:
                return
            left -= len(chunk)
            if left <= 0:
                raise self._too_large(key, max_bytes)
            yield chunk

    def _walk(self, prefix: str, after: str) -> Iterator[Entry]:
        try:
            with self._errors(prefix or "the store", "listed"):
                names = prefix.split("/")[:-1]
                with self._root.folder(names) as step, posix.listable(step) as folder:
                    found = _scan(prefix, folder, after)
        except ABSENT:
            return
        for name, entry in found:
            if entry is None:
                yield from self._walk(prefix + name, after)
            else:
                yield entry

    def _publish(self, key: str, chunks: Callable[[], Iterable[bytes]]) -> bool:
        *folders, name = key.split("/")
        with self._errors(key, "written"), self._root.folder(folders, create=True) as folder:
            if posix.is_free(name, folder):  # otherwise a retry would write everything again
                with posix.temporary_file(folder, chunks()) as (temporary, now_s):
                    self._sweep("/".join(folders), folder, now_s)
                    created = self._give_name(temporary, name, folder)
                if created:
                    posix.sync_folder(folder)
                    return True
            with open(self._open_regular(key, name, folder), "rb") as file:  # noqa: PTH123  a descriptor
                same = all(file.read(len(chunk)) == chunk for chunk in chunks())
                if not same or file.read(1):
                    raise self._exists(key)
            return False

    def _give_name(self, temporary: str, name: str, folder: int) -> bool:
        if self._links is None:
            self._links = posix.has_links(temporary, folder)
            if not self._links:
                _log.info("%s has no links: locks are used", self.url)
        if self._links:
            return posix.link_exclusively(temporary, name, folder)
        return posix.rename_exclusively(temporary, name, folder, pause=self._pause)

    def _sweep(self, where: str, folder: int, now_s: float) -> None:
        if now_s - self._swept_s.get(where, -_SWEEP_EVERY_S) >= _SWEEP_EVERY_S:
            self._swept_s[where] = now_s
            posix.sweep_temporary_files(folder, now_s)


def _scan(prefix: str, folder: int, after: str) -> list[tuple[str, Entry | None]]:
    """Return a folder's files, and its folders with a ``/`` behind, which then sort as keys do.

    Of what sorts before ``after`` only names are read.
    """
    found: list[tuple[str, Entry | None]] = []
    with os.scandir(folder) as items:
        for item in items:
            key = prefix + item.name
            if not is_key(key):
                continue
            if item.is_dir(follow_symlinks=False):
                if key + "/" > after or after.startswith(key + "/"):
                    found.append((item.name + "/", None))
            elif key > after and item.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    info = item.stat(follow_symlinks=False)
                    found.append((item.name, Entry(key, info.st_size, info.st_mtime)))
    return sorted(found, key=lambda pair: pair[0])
