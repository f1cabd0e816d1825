"""Servers of other packages for the tests: wait until they listen, or skip without them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

_START_S = 20.0


def missing_of(*programs: str) -> list[str]:
    """Return the programs, by name or path, that are not installed."""
    return [name for name in programs if not shutil.which(name)]


def skip_without(missing: Sequence[str], *, on: str, packages: str) -> None:
    """Skip a test loudly where programs are missing.

    Args:
        missing: the programs.
        on: what is then not tested on, in capitals.
        packages: Debian packages that bring them.
    """
    if missing:
        pytest.skip(
            f"NOT TESTED ON {on}: {', '.join(missing)} not found; as root: "
            f"apt-get install -y --no-install-recommends {packages}"
        )


def free_ports(number: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server takes connections on loopback.

    Raises:
        RuntimeError: it ended, or does not begin to; with its log.
    """
    deadline_s = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > deadline_s or process.poll() is not None:
            raise RuntimeError(f"{process.args!r} did not start: {log.read_text()}")
        time.sleep(0.05)
