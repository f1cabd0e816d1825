"""Debian's Linux as a process (User-mode Linux), and what it starts from: busybox and modules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PACKAGES = "user-mode-linux busybox-static"
PROGRAM = "/usr/bin/linux.uml"
MODULES = Path("/usr/lib/uml/modules")
INIT = Path(__file__).with_name("guest_init.sh")
_AT_START = ("fs/overlayfs/overlay.ko", "fs/autofs/autofs4.ko")
"""Modules that nothing can load later: without the first there is no root yet."""


def write_initramfs(path: Path, folder: Path) -> None:
    """Write the archive that the kernel unpacks and starts.

    Args:
        path: file to write.
        folder: to collect its content in, which does not exist yet.
    """
    for name in ("bin", "modules", "proc", "sys", "dev", "host", "changes", "new"):
        (folder / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", folder / "bin" / "busybox")
    shutil.copy(INIT, folder / "init")
    (folder / "init").chmod(0o755)
    (version,) = MODULES.iterdir()
    for module in _AT_START:
        shutil.copy(version / "kernel" / module, folder / "modules")
    names = "\n".join(str(p.relative_to(folder)) for p in sorted(folder.rglob("*")))
    with path.open("wb") as out:
        subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            cwd=folder, input=names.encode(), stdout=out, stderr=subprocess.PIPE, check=True,
        )  # fmt: skip
