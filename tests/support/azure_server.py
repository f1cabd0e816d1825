"""An emulator of Azure Blob Storage: Azurite from npm, with one account.

Rules:
 * It listens on loopback only, keeps everything in memory, and dies with the process that started
   it.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import sys
from pathlib import Path

from support.servers import Server, free_ports, missing_of

ACCOUNT = "hospital"
INSTALL = "npm install --prefix .venv/azurite azurite"
_PROGRAM = "azurite-blob"


def _program() -> str | None:
    installed = Path(sys.prefix, "azurite", "node_modules", ".bin")
    return shutil.which(_PROGRAM, path=f"{installed}{os.pathsep}{os.environ['PATH']}")


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return ([] if _program() else [_PROGRAM]) + missing_of("setpriv")


class AzureServer(Server):
    """Azurite on a free port.

    Attributes:
        key: of the account.
        port: of the server.
    """

    def __init__(self) -> None:
        super().__init__("azure")
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
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
        command = [str(_program()), "--inMemoryPersistence", "--silent", "--skipApiVersionCheck",
                   "--disableTelemetry", "--blobPort", str(self.port)]  # fmt: skip
        accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"}
        self.launch(command, self.port, environment={**os.environ, **accounts})
