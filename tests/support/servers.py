"""Servers of other packages for the tests: start and end them, or skip without them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

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


def wait_for(
    something: Callable[[], object],
    *,
    at_most_s: float = 120.0,
    explain: Callable[[], str] = lambda: "waited too long",
) -> None:
    """Wait until something is true.

    Raises:
        RuntimeError: that takes too long; with what ``explain`` returns.
    """
    deadline_s = time.monotonic() + at_most_s
    while not something():
        if time.monotonic() > deadline_s:
            raise RuntimeError(explain())
        time.sleep(0.05)


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server takes connections on loopback.

    Raises:
        RuntimeError: it ended, or does not begin to; with its log.
    """

    def explain() -> str:
        return f"{process.args!r} did not start: {log.read_text()}"

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        if process.poll() is not None:
            raise RuntimeError(explain())
        return False

    wait_for(listens, at_most_s=_START_S, explain=explain)


class Server:
    """A daemon with a folder of its own, which goes with it; it dies with the process of the tests.

    Args:
        name: in the name of the folder.

    Attributes:
        folder: holds everything, and what the daemon prints in ``out``.
    """

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"fedfs-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def launch(
        self,
        command: Sequence[str],
        port: int,
        *,
        ends_by: str = "KILL",
        as_user: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the daemon in its folder and wait until it listens.

        Args:
            command: that stays in the foreground.
            port: where it listens.
            ends_by: signal that ends it when the process of the tests is gone.
            as_user: options of setpriv.
            environment: of the daemon; None for that of the tests.
        """
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                ["setpriv", *as_user, "--pdeathsig", ends_by, *command],
                cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_until_it_listens(self._process, port, self.folder / "out")

    def stop(self) -> None:
        """End the daemon and all its connections."""
        if self._process is not None:
            self._end(self._process)
            self._process.wait()
            self._process = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
