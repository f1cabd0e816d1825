"""A folder of the SSH server, mounted with sshfs."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support.servers import missing_of
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
        deadline_s = time.monotonic() + _START_S
        while not point.is_mount():
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"{command} does not mount")
            time.sleep(0.05)
        yield
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)
        process.terminate()
        process.wait()
