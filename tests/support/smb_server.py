"""A real SMB server: Samba from Debian, with one share for one user.

Rules:
 * It listens on loopback only, keeps everything in one folder, and ends with the process that
   started it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.servers import free_ports, missing_of, wait_until_it_listens

PACKAGES = "samba"
SHARE = "studies"
_SMBD = "/usr/sbin/smbd"
_CONFIGURATION = """\
[global]
server role = standalone server
bind interfaces only = yes
interfaces = lo
smb ports = {port}
disable netbios = yes
private dir = {folder}/private
lock directory = {folder}/lock
state directory = {folder}/state
cache directory = {folder}/cache
pid directory = {folder}/run
ncalrpc dir = {folder}/ncalrpc
log file = {folder}/log
passdb backend = tdbsam:{folder}/private/passdb.tdb
map to guest = never
load printers = no
[{share}]
path = {folder}/data
read only = no
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return missing_of(_SMBD, "smbpasswd", "setpriv")


class SmbServer:
    """Samba on a free port.

    Attributes:
        folder: holds everything, and ``data`` for what is shared.
        password: of the only user, who is the one that runs the tests.
        port: of the server.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedfs-smb-"))
        self.data = self.folder / "data"
        for name in ("data", "private", "lock", "state", "cache", "run", "ncalrpc"):
            (self.folder / name).mkdir()
        self.password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)
        text = _CONFIGURATION.format(port=self.port, folder=self.folder, share=SHARE)
        (self.folder / "smb.conf").write_text(text)
        command = ["smbpasswd", "-c", str(self.folder / "smb.conf"), "-a", "-s", getpass.getuser()]
        typed = f"{self.password}\n{self.password}\n".encode()
        subprocess.run(command, input=typed, check=True, capture_output=True)
        self.start()

    def url(self, name: str, *, port: int = 0, user: str = "") -> str:
        """Return the URL of a folder in the share."""
        user = user or getpass.getuser()
        return f"smb://{user}@127.0.0.1:{port or self.port}/{SHARE}/{name}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_SMBD, "--foreground", "--debug-stdout", "-s", str(self.folder / "smb.conf")]
        with (self.folder / "out").open("ab") as out:
            # smbd makes its own process group, and ends it when it is told to end.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_until_it_listens(self._process, self.port, self.folder / "out")

    def stop(self) -> None:
        """End the server and all its connections."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running() -> Iterator[SmbServer]:
    """Run a server as long as the block does."""
    server = SmbServer()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
