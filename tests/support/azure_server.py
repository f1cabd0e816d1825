"""An emulator of Azure Blob Storage: Azurite from npm, with one account.

Rules:
 * It listens on loopback only, keeps everything in memory, and dies with the process that started
   it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.servers import free_ports, missing_of, wait_until_it_listens

ACCOUNT = "hospital"
INSTALL = "npm install --prefix .venv/azurite azurite"
_PROGRAM = "azurite-blob"


def _program() -> str | None:
    installed = Path(sys.prefix, "azurite", "node_modules", ".bin")
    return shutil.which(_PROGRAM, path=f"{installed}{os.pathsep}{os.environ['PATH']}")


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return ([] if _program() else [_PROGRAM]) + missing_of("setpriv")


class AzureServer:
    """Azurite on a free port.

    Attributes:
        folder: holds its log.
        key: of the account.
        port: of the server.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedfs-azure-"))
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)
        self.start()

    def connection(self, *, port: int = 0, key: str = "") -> str:
        """Return the connection string of a client."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key or self.key};"
            f"BlobEndpoint=http://127.0.0.1:{port or self.port}/{ACCOUNT};"
        )

    def start(self) -> None:
        """Start the server and wait until it answers; it begins with nothing."""
        command = ["setpriv", "--pdeathsig", "KILL", str(_program()), "--inMemoryPersistence",
                   "--silent", "--skipApiVersionCheck", "--disableTelemetry",
                   "--blobPort", str(self.port)]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"},
            )  # fmt: skip
        wait_until_it_listens(self._process, self.port, self.folder / "log")

    def stop(self) -> None:
        """End the server, and lose what it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running() -> Iterator[AzureServer]:
    """Run a server as long as the block does."""
    server = AzureServer()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
