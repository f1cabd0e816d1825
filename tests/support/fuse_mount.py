"""Mounts in user space, by programs that stay in the foreground."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support.servers import missing_of, wait_for

_FUSE = "/dev/fuse"
_START_S = 20.0


def missing_programs(program: str) -> list[str]:
    """Return what is needed for a mount by ``program``, and not there."""
    missing = missing_of(program, "fusermount3", "setpriv")
    return missing + ([] if os.access(_FUSE, os.R_OK | os.W_OK) else [_FUSE])


@contextlib.contextmanager
def mounted(
    command: Sequence[str], point: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Keep a mount as long as the block runs.

    Args:
        command: mounts something at ``point``, and runs until it is ended.
        point: folder.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: it cannot be mounted.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *command],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    try:
        wait_for(
            lambda: point.is_mount() or process.poll() is not None,
            at_most_s=_START_S,
            explain=lambda: f"{command} does not mount",
        )
        if not point.is_mount():
            raise RuntimeError(f"{command} ended")
        yield
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)
        process.terminate()
        process.wait()
