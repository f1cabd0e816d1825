"""A forward proxy, as a hospital has it before the internet: squid from Debian.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * It connects to the ports that it is given, and to nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from support.servers import free_ports, missing_of, wait_until_it_listens

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


class ForwardProxy:
    """squid on a free port.

    Args:
        ports: those that it may connect to.

    Attributes:
        url: the proxy's.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="fedfs-squid-"))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        text = _CONFIGURATION.format(port=port, ports=" ".join(map(str, ports)), folder=folder)
        (folder / "squid.conf").write_text(text)
        if os.geteuid() == 0:
            shutil.chown(folder, "proxy")  # which it then runs as
        with (folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", _SQUID, "-N", "-f", str(folder / "squid.conf")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_until_it_listens(self._process, port, folder / "out")

    def requests(self) -> list[str]:
        """Return the lines of its log."""
        return (self._folder / "access").read_text().splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
