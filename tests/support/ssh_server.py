"""A real SSH server: OpenSSH from Debian, with its own keys, for one user.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * The folder ``home`` is the home of a client that knows the server's key and has one of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
from pathlib import Path

from support.servers import Server, free_ports, missing_of

PACKAGES = "openssh-server"
_SSHD = "/usr/sbin/sshd"  # which wants to be called by its full path
_CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return missing_of(_SSHD, "ssh-keygen", "setpriv")


class SshServer(Server):
    """OpenSSH on a free port.

    Attributes:
        data: folder that is served.
        home: home of a client, with ``.ssh``.
        port: of the server.
    """

    def __init__(self) -> None:
        super().__init__("ssh")
        self.home = self.folder / "home"
        self.data = self.folder / "data"
        self.data.mkdir()
        (self.home / ".ssh").mkdir(mode=0o700, parents=True)
        own = self.home / ".ssh" / "id_ed25519"
        for path in (self.folder / "host_key", own):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
            subprocess.run(command, check=True, capture_output=True)
        shutil.copy(own.with_suffix(".pub"), self.folder / "authorized_keys")
        (self.port,) = free_ports(1)
        text = _CONFIGURATION.format(port=self.port, folder=self.folder)
        (self.folder / "sshd_config").write_text(text)
        self.know("127.0.0.1", self.port)
        self.start()

    @property
    def host_key(self) -> str:
        """Type and public key of the server."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def know(self, host: str, port: int) -> None:
        """Let the client know the server's key at another address too."""
        with (self.home / ".ssh" / "known_hosts").open("a") as file:
            file.write(f"[{host}]:{port} {self.host_key}\n")

    def url(self, path: Path, *, port: int = 0) -> str:
        """Return the URL of a folder of this host."""
        return f"sftp://{getpass.getuser()}@127.0.0.1:{port or self.port}{path}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.launch([_SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], self.port)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pid in [*_children(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Return the processes that one has started, which sshd lets live on, the youngest first."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*(other for child in own for other in _children(int(child))), *map(int, own)]
