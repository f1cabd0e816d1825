"""Containers for real: podman as root, with images, containers and volumes in a folder of its own.

Rules:
 * Nothing is pulled: images with the names that a Dockerfile starts from are made of Debian's
   packages by mmdebstrap.
 * It works without systemd, with either kind of cgroups, and where limits may not be raised.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.servers import missing_of

PACKAGES = "podman runc mmdebstrap netavark aardvark-dns iptables catatonit"
DISK_GB = 45
_PROGRAMS = ("podman", "runc", "mmdebstrap", "iptables", "unshare", "nsenter", "setpriv")
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
static_dir = "{folder}/engine"
tmp_dir = "{folder}/run/engine"
volume_path = "{folder}/volumes"
[network]
network_config_dir = "{folder}/networks"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/images"
runroot = "{folder}/run"
"""


def missing_parts(folder: Path) -> list[str]:
    """Return what containers need and this machine does not have.

    Args:
        folder: for images.
    """
    missing = missing_of(*_PROGRAMS)
    if os.geteuid() != 0:
        missing.append("the right to make namespaces (root)")
    if shutil.disk_usage(folder).free < DISK_GB << 30:
        missing.append(f"{DISK_GB} GB of disk for an image with CUDA")
    return missing


class Podman:
    """Podman with a folder of its own.

    Attributes:
        environment: variables with which podman, and what calls it, finds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "containers.conf").write_text(_CONTAINERS.format(folder=folder))
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        self.environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def call(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Return what a command of podman prints.

        Raises:
            RuntimeError: it failed; with all that it said.
        """
        return _output(["podman", *arguments], self.environment, timeout_s)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of podman which writes to a log."""
        with log.open("ab") as out:
            return subprocess.Popen(
                ["podman", *arguments], env=self.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def make_base(self, *names: str, packages: Sequence[str]) -> None:
        """Make an image of Debian with packages, and give it names."""
        tar = self._folder / "base.tar"
        include = f"--include={','.join(packages)}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", str(tar)]
        _output(command, os.environ, 900.0)
        for name in names:
            self.call("import", "--quiet", str(tar), name)
        tar.unlink()

    def remove(self) -> None:
        """End its containers and remove its images, volumes and networks."""
        self.call("system", "reset", "--force", timeout_s=600.0)


def _output(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout_s, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


class Compose:
    """podman-compose with a file, in a network of its own.

    Args:
        podman: has the images.
        folder: for podman-compose, which pip fetches.
        file: of compose.
        variables: that the file names.
    """

    def __init__(
        self, podman: Podman, folder: Path, file: Path, variables: Mapping[str, str]
    ) -> None:
        install = ("-m", "pip", "install", "--quiet", "--target", str(folder), "podman-compose")
        _output([sys.executable, *install], os.environ, 300.0)
        self._environment = {**podman.environment, **variables, "PYTHONPATH": str(folder)}
        self._command = [sys.executable, "-m", "podman_compose", "--profile", "commands"]
        self._command += ["--file", str(file)]
        network = ["unshare", "--net", "--mount", "sh", "-c", "ip link set lo up; exec sleep inf"]
        self._network = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *network])
        self._inside = ["nsenter", f"--target={self._network.pid}", "--net", "--mount"]

    def build(self, service: str) -> None:
        """Build the image of a service, with this machine's network."""
        _output([*self._command, "build", service], self._environment, 1800.0)

    def call(self, *words: str) -> str:
        """Return what a command of podman-compose prints; raises RuntimeError if it failed."""
        return _output([*self._inside, *self._command, *words], self._environment, 300.0)

    def podman(self, *words: str) -> str:
        """Return what a command of podman prints; raises RuntimeError if it failed."""
        return _output([*self._inside, "podman", *words], self._environment, 300.0)

    def log(self, container: str) -> str:
        """Return all that a container has said."""
        both = ["sh", "-c", 'exec podman logs "$0" 2>&1', container]
        return _output([*self._inside, *both], self._environment, 300.0)

    def stop(self) -> None:
        """End and remove all containers and volumes, and the network."""
        try:
            self.call("down", "--volumes", "--timeout=10")
        finally:
            self._network.kill()
            self._network.wait()
