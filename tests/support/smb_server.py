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
import signal
import subprocess

from support.servers import Server, free_ports, missing_of

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


class SmbServer(Server):
    """Samba on a free port.

    Attributes:
        data: folder that is shared.
        password: of the only user, who is the one that runs the tests.
        port: of the server.
    """

    def __init__(self) -> None:
        super().__init__("smb")
        self.data = self.folder / "data"
        for name in ("data", "private", "lock", "state", "cache", "run", "ncalrpc"):
            (self.folder / name).mkdir()
        self.password = secrets.token_hex(8)
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

    def fstab(self, host: str, point: str, *, owner: int = 0, more: str = "nofail") -> str:
        """Return the line of ``/etc/fstab`` by which a client that sees it at ``host`` mounts it.

        Each mount is as one of another client: it has a connection of its own.

        Args:
            host: address of the server, as the client sees it.
            point: where it is mounted.
            owner: number of the user and of the group there to whom all files belong.
            more: options of systemd.
        """
        user = f"username={getpass.getuser()},password={self.password},uid={owner},gid={owner}"
        options = f"vers=3.1.1,nosharesock,ip={host},port={self.port},{user},_netdev,{more}"
        return f"//{host}/{SHARE} {point} cifs {options} 0 0\n"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_SMBD, "--foreground", "--debug-stdout", "-s", str(self.folder / "smb.conf")]
        # smbd makes its own process group, and ends it when it is told to end.
        self.launch(command, self.port, ends_by="TERM")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
