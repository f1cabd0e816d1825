"""One process per role and host: a second one that cron starts finds the first at work.

The lock is the operating system's. It ends with the process, however that ends, and so is never
left behind. Processes on other hosts are not locked out: the store settles between them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[str]:
    """Hold the lock; yield "", or the name of another process that holds it.

    Args:
        path: of the lock; stays there, empty folders above it are made.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            yield f"process {holder}" if holder else "another process"
            return
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield ""
    finally:
        os.close(fd)
