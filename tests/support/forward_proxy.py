"""A forward proxy, as a hospital has it before the internet: squid from Debian.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * It connects to the ports that it is given, and to nothing else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from support.servers import Server, free_ports, missing_of

PACKAGES = "squid"
_SQUID = "/usr/sbin/squid"
_CONFIGURATION = """\
http_port 127.0.0.1:{port}
acl allowed port {ports}
acl CONNECT method CONNECT
http_access allow CONNECT allowed
http_access deny all
pid_filename none
access_log stdio:{folder}/access
cache_log {folder}/log
cache deny all
coredump_dir {folder}
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return missing_of(_SQUID, "setpriv")


class ForwardProxy(Server):
    """squid on a free port.

    Args:
        ports: those that it may connect to.

    Attributes:
        url: the proxy's.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__("squid")
        folder = self.folder
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        text = _CONFIGURATION.format(port=port, ports=" ".join(map(str, ports)), folder=folder)
        (folder / "squid.conf").write_text(text)
        if os.geteuid() == 0:
            shutil.chown(folder, "proxy")  # which it then runs as
        self.launch([_SQUID, "-N", "-f", str(folder / "squid.conf")], port)

    def requests(self) -> list[str]:
        """Return the lines of its log."""
        return (self.folder / "access").read_text().splitlines()
