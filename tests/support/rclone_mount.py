"""A folder of the WebDAV server, mounted with rclone."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from support import fuse_mount
from support.dav_server import USER, DavServer

PACKAGES = "rclone fuse3"


def missing_programs() -> list[str]:
    """Return what is needed and not there."""
    return fuse_mount.missing_programs("rclone")


def mounted(server: DavServer, folder: str, point: Path) -> contextlib.AbstractContextManager[None]:
    """Mount a folder as long as the block runs, as docs/storage.md says.

    Raises:
        RuntimeError: it cannot be mounted.
    """
    obscured = subprocess.run(
        ["rclone", "obscure", server.password], check=True, stdout=subprocess.PIPE, text=True
    )
    settings = {
        "TYPE": "webdav",
        "URL": f"http://127.0.0.1:{server.port}",
        "USER": USER,
        "PASS": obscured.stdout.strip(),
    }
    environment = {f"RCLONE_CONFIG_THERE_{name}": value for name, value in settings.items()}
    options = ["--config", "", "--dir-cache-time", "5s", "--vfs-write-back", "0"]
    options += ["--vfs-cache-mode", "writes", "--cache-dir", str(server.folder / "rclone")]
    command = ["rclone", "mount", *options, f"there:{folder}", str(point)]
    return fuse_mount.mounted(command, point, environment)
