"""A folder of the SSH server, mounted with sshfs."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.servers import missing_of, wait_for
from support.ssh_server import SshServer

PACKAGES = "sshfs"
_FUSE = "/dev/fuse"
_START_S = 20.0


def missing_programs() -> list[str]:
    """Return what is needed and not there."""
    missing = missing_of("sshfs", "fusermount3", "setpriv")
    return missing + ([] if os.access(_FUSE, os.R_OK | os.W_OK) else [_FUSE])


@contextlib.contextmanager
def mounted(server: SshServer, folder: Path, point: Path) -> Iterator[None]:
    """Mount a folder as long as the block runs, as docs/storage.md says.

    Raises:
        RuntimeError: it cannot be mounted.
    """
    ssh = server.home / ".ssh"
    options = (
        f"cache=no,reconnect,IdentityFile={ssh}/id_ed25519,UserKnownHostsFile={ssh}/known_hosts"
    )
    place = f"{getpass.getuser()}@127.0.0.1:{folder}"
    command = ["sshfs", "-f", "-p", str(server.port), "-o", options, place, str(point)]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL
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
