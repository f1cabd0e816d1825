"""A folder of the WebDAV server, mounted with rclone."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.dav_server import USER, DavServer
from support.servers import missing_of, wait_for

PACKAGES = "rclone fuse3"
_FUSE = "/dev/fuse"
_START_S = 20.0


def missing_programs() -> list[str]:
    """Return what is needed and not there."""
    missing = missing_of("rclone", "fusermount3", "setpriv")
    return missing + ([] if os.access(_FUSE, os.R_OK | os.W_OK) else [_FUSE])


@contextlib.contextmanager
def mounted(server: DavServer, folder: str, point: Path) -> Iterator[None]:
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
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *command],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        wait_for(
            lambda: point.is_mount() or process.poll() is not None,
            at_most_s=_START_S,
            explain=lambda: f"{command} does not mount",
        )
        if not point.is_mount():
            raise RuntimeError(f"{command} ended")
        yield
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)
        process.terminate()
        process.wait()
