"""fedfs as a package: its wheel, installed into an environment of its own.

The environment finds all other packages where the tests have them, as installing PyTorch takes
gigabytes. Of the running environment it sees the folder of packages alone, not what the ``.pth``
files there add: the checkout is not on its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


class InstalledPackage:
    """An environment with the wheel of this checkout.

    Args:
        folder: a folder that does not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "env" / "bin"
        build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheel")]
        self._python(*build, cwd=ROOT)
        (self.wheel,) = (folder / "wheel").iterdir()
        self._python("-m", "venv", "--without-pip", str(folder / "env"))
        pip = ["-m", "pip", "--python", str(self.programs / "python"), "install", "--quiet"]
        self._python(*pip, "--no-index", "--no-deps", "--no-compile", str(self.wheel))
        (packages,) = folder.glob("env/lib/python3*/site-packages")
        (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def environment(self) -> dict[str, str]:
        """Return an environment in which the package's programs are found first."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}

    def run(self, *words: str, cwd: Path) -> str:
        """Run one of its programs in a folder; return what it prints."""
        done = subprocess.run(
            [str(self.programs / words[0]), *words[1:]], env=self.environment(), cwd=cwd,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    @staticmethod
    def _python(*words: str, cwd: Path | None = None) -> None:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
