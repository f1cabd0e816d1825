"""Files and names beneath an open folder: the primitives of the folder store.

Rules:
 * Every function works on a name in an open folder (``dir_fd``) and follows no symbolic link.
 * A name is given to a finished file by :func:`link_exclusively` or
   :func:`rename_exclusively`, which never replace anything.
 * Names that fedfs makes for itself start with ``.fedfs-``.
 * Times of files are compared with each other, never with this host's clock.
 * Errors are those of the operating system; the store turns them into its own.
"""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fedfs.store.local_files import NO_LINKS, NO_SYNC, temporary_name

_log = logging.getLogger(__name__)

SWEEP_AGE_S = 24 * 3600.0
"""A temporary file that was not written to for so long belongs to a killed writer."""
LOCK_STALE_S = 30.0
"""A lock that is held for longer belongs to a killed writer: it takes four system calls."""

_MODE = 0o644  # less the umask: colleagues read what each other's services published
_LOCK_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64) + (1.0,) * 60
_TEMPORARY = re.compile(r"\.fedfs-[0-9a-f]{32}\.tmp")

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
STEP_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""To pass through a folder, which needs no right to list it where the system has O_PATH."""
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""To read an object; a pipe that somebody put in its place must not block us."""
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_temporary(name: str) -> bool:
    """Return whether a name is that of a file that is not finished."""
    return bool(_TEMPORARY.fullmatch(name))


def is_free(name: str, folder: int) -> bool:
    """Return whether nothing at all has this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def is_same(path: Path, name: str, folder: int) -> bool:
    """Return whether a name is another one of the file ``path``, as a hard link is."""
    return os.path.samestat(path.lstat(), os.stat(name, dir_fd=folder, follow_symlinks=False))


@contextlib.contextmanager
def listable(folder: int) -> Iterator[int]:
    """Yield a descriptor of ``folder`` that can be listed and synchronised."""
    fd = os.open(".", FOLDER_FLAGS, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_folder(folder: int) -> None:
    """Make new names durable, where the file system can and we may open the folder."""
    try:
        with listable(folder) as fd:
            os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


@contextlib.contextmanager
def temporary_file(folder: int, chunks: Iterable[bytes]) -> Iterator[tuple[str, float]]:
    """Write a hidden file through to the disk and remove its hidden name in the end.

    Yields:
        its name, and its time in seconds by the share's clock.
    """
    name = temporary_name()
    try:
        fd = os.open(name, _WRITE_FLAGS, _MODE, dir_fd=folder)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            os.fsync(fd)
            modified_s = os.fstat(fd).st_mtime
        finally:
            os.close(fd)
        yield name, modified_s
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


def sweep_temporary_files(folder: int, now_s: float) -> None:
    """Remove what killed writers left here; what cannot be removed stays.

    Args:
        folder: descriptor of the folder.
        now_s: the time by the share's clock, seconds.
    """
    with contextlib.suppress(OSError), listable(folder) as fd, os.scandir(fd) as items:
        for item in items:
            if not is_temporary(item.name):
                continue
            with contextlib.suppress(OSError):
                if now_s - _last_change_s(item.stat(follow_symlinks=False)) > SWEEP_AGE_S:
                    os.unlink(item.name, dir_fd=folder)
                    _log.info("removed %s, which a killed writer had left", item.name)


def _last_change_s(info: os.stat_result) -> float:
    """Return when a file was last changed, by the share's clock.

    On NFS, the time of writing of a file that is just being created is any number: until the writer
    sets it, servers keep there what tells a repeated request from a rival's (RFC 8881, 18.16.3).
    """
    return max(info.st_mtime, info.st_ctime)


def has_links(temporary: str, folder: int) -> bool:
    """Return whether the file system has links, found out with a finished file of ours.

    Raises:
        OSError: the share went away.
    """
    name = temporary_name()
    for is_second in (False, True):
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in NO_LINKS:
                return False
            if error.errno != errno.EIO:
                raise
            # Mounts of rclone say so, and so does a line that was cut: then nothing else works.
            if is_second:
                return False
            os.mkdir(name, dir_fd=folder)
            os.rmdir(name, dir_fd=folder)
        else:
            break
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)
    return True


def link_exclusively(temporary: str, name: str, folder: int) -> bool:
    """Give a finished file its name; False, and nothing done, if the name is taken."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except PermissionError as error:
        # sshfs says EPERM where another host has taken the name since this one looked.
        if error.errno != errno.EPERM or is_free(name, folder):
            raise
        return False
    return True


def rename_exclusively(
    temporary: str, name: str, folder: int, *, pause: Callable[[float], None]
) -> bool:
    """Do what :func:`link_exclusively` does on a file system without links.

    ``rename`` would replace a rival's object, and creating the name exclusively would show it
    half-written. So looking whether the name is free and renaming happen under a lock: a hidden
    folder, as ``mkdir`` has one winner on every file system. A writer may be killed while it holds
    the lock, and removing its lock could hit a fresh one of somebody else. So locks are numbered:
    one older than :data:`LOCK_STALE_S` stays where it is and the next number decides. Whoever has
    renamed clears all of them away, since nobody needs them once the name is taken.

    What remains: a writer that is stopped for that long between its last look and the rename, two
    adjacent system calls, may replace a rival's object.

    Raises:
        OSError: EDEADLK if others held the lock for over a minute.
    """
    for pause_s in _LOCK_PAUSES_S:
        if not is_free(name, folder):
            return False
        number = _take_lock(name, folder)
        if number is not None:
            ours = range(number, number + 1)
            try:
                if not is_free(_lock(name, number + 1), folder):
                    ours = range(0)  # superseded; a gap in the numbers would let a third one in
                elif is_free(name, folder):
                    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                    ours = range(number + 1)
                    return True
            finally:
                for old in reversed(ours):
                    with contextlib.suppress(OSError):
                        os.rmdir(_lock(name, old), dir_fd=folder)
        pause(pause_s)
    raise OSError(errno.EDEADLK, os.strerror(errno.EDEADLK), name)


def _lock(name: str, number: int) -> str:
    return f".fedfs-lock-{number}-{name}"


def _take_lock(name: str, folder: int) -> int | None:
    """Return the number of the lock now held, None while another writer holds one."""
    number = 0
    while True:
        try:
            os.mkdir(_lock(name, number), dir_fd=folder)
        except FileExistsError:
            if not _is_stale(_lock(name, number), folder):
                return None
        else:
            return number
        number += 1


def _is_stale(lock: str, folder: int) -> bool:
    with temporary_file(folder, ()) as (_, now_s):
        try:
            taken_s = os.stat(lock, dir_fd=folder, follow_symlinks=False).st_mtime
        except FileNotFoundError:  # released meanwhile
            return False
        return now_s - taken_s > LOCK_STALE_S
