"""A folder of the SSH server, mounted with sshfs."""

from __future__ import annotations

import contextlib
import getpass
from pathlib import Path

from support import fuse_mount
from support.ssh_server import SshServer

PACKAGES = "sshfs"


def missing_programs() -> list[str]:
    """Return what is needed and not there."""
    return fuse_mount.missing_programs("sshfs")


def mounted(
    server: SshServer, folder: Path, point: Path
) -> contextlib.AbstractContextManager[None]:
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
    return fuse_mount.mounted(command, point)
