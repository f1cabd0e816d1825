"""A real NFS server: Ganesha from Debian, with one export.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * Only root can start it: it opens files by their handles.
"""

from __future__ import annotations

import os
from pathlib import Path

from support.servers import Server, free_ports, missing_of

PACKAGES = "nfs-ganesha nfs-ganesha-vfs"
_GANESHA = "/usr/bin/ganesha.nfsd"
_EXPORT = "/studies"
_CONFIGURATION = """\
NFS_CORE_PARAM {{
  Bind_addr = 127.0.0.1;
  NFS_Port = {port};
  MNT_Port = {mount_port};
  Protocols = 4;
  Enable_NLM = false;
  Enable_RQUOTA = false;
  mount_path_pseudo = true;
}}
NFSv4 {{
  Minor_Versions = 1;
  Grace_Period = 5;
  Lease_Lifetime = 5;
  RecoveryBackend = fs;
  RecoveryRoot = {folder}/recovery;
}}
EXPORT {{
  Export_Id = 1;
  Path = {folder}/data;
  Pseudo = {export};
  Protocols = 4;
  Transports = TCP;
  Access_Type = RW;
  Squash = No_root_squash;
  SecType = sys;
  FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed, or who would have to run them."""
    missing = missing_of(_GANESHA, "setpriv")
    return missing or ([] if os.geteuid() == 0 else ["the right to start ganesha.nfsd (root)"])


class NfsServer(Server):
    """Ganesha on a free port.

    Attributes:
        data: folder that is exported.
        port: of the server.
    """

    def __init__(self) -> None:
        super().__init__("nfs")
        self.data = self.folder / "data"
        for name in ("data", "recovery"):
            (self.folder / name).mkdir()
        self.port, mount_port = free_ports(2)
        text = _CONFIGURATION.format(
            port=self.port, mount_port=mount_port, folder=self.folder, export=_EXPORT
        )
        (self.folder / "ganesha.conf").write_text(text)
        self.start()

    def fstab(self, host: str, point: str, *, owner: int = 0, more: str = "nofail") -> str:
        """Return the line of ``/etc/fstab`` by which a client that sees it at ``host`` mounts it.

        Each mount is as one of another client: it has files and folders of its own in memory.

        Args:
            host: address of the server, as the client sees it.
            point: where it is mounted.
            owner: does nothing here: whose files are is what the server says.
            more: options of systemd.
        """
        del owner
        address = f"addr={host},port={self.port},proto=tcp"
        options = f"vers=4.1,sec=sys,nosharecache,{address},_netdev,{more}"
        return f"{host}:{_EXPORT} {point} nfs4 {options} 0 0\n"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        files = ("-f", "ganesha.conf", "-L", "STDERR", "-p", str(Path(self.folder, "pid")))
        self.launch([_GANESHA, "-F", *files], self.port)
