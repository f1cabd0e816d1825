"""A hospital's machine that works for a study, with made-up learning, by the units of fedfs.

It is the guest of :mod:`support.guest`; the study lies on a share that its kernel mounts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfs.simulation.hosts import LENIENT_POLICY
from fedfs.store import FolderStore
from support import guest, made_up_fedfs
from support.federation import Federation
from support.guest_line import GuestLine
from support.nfs_server import NfsServer
from support.servers import wait_for
from support.smb_server import SmbServer

SITE = "north"
SERVICES = ("fedfs-aggregate.service", f"fedfs-site@{SITE}.service")
TIMERS = ("fedfs-aggregate-once.timer", f"fedfs-site-once@{SITE}.timer")
HOME = "/var/lib/fedfs"
_POINT = "/mnt/share"
_FOLDERS = ("raw", "preprocessed", "results")
_UNITS = "etc/systemd/system"
_TRAINING_S = 900.0
_SOON = """\
[Timer]
OnBootSec=
OnUnitInactiveSec=
OnBootSec=1
OnUnitInactiveSec=2
RandomizedDelaySec=0
AccuracySec=1
"""
"""What ``systemctl edit`` would make of timers of ten minutes."""
_AT_NEED = "x-systemd.automount,x-systemd.mount-timeout=30"
"""A share that is away when the machine starts is mounted once it is back."""
_PROGRAM = f"""\
#!/bin/sh
export FEDFS_TEST_ROUNDS=/guest/rounds
exec {guest.python_command(str(guest.ROOT / "tests/support/made_up_fedfs.py"))} "$@"
"""


class _Study(Federation):
    """A study of one site, by the clock of the machines."""

    def clock(self) -> float:
        return time.time()


class Hospital:
    """The machine; the aggregator works there too.

    Args:
        folder: for what belongs to the test.
        server: whose share holds the study.
        line: of the machine to it.
        rounds: of the study.
        units: that the machine starts.

    Attributes:
        machine: is switched off; its first training will wait.
        study: as this host sees it, behind the back of any mount.
    """

    def __init__(
        self,
        folder: Path,
        server: NfsServer | SmbServer,
        line: GuestLine,
        *,
        rounds: int,
        units: Sequence[str] = SERVICES,
    ) -> None:
        self.server = server
        store = FolderStore(server.data / "organ", must_exist=False)
        options: dict[str, Any] = {"targets": {SITE: made_up_fedfs.TARGET}, "rounds": rounds}
        self.study = _Study(folder / "hosts", store=store, **options).start()
        disk = folder / "disk"
        for host in ("coordinator", SITE):
            shutil.copytree(self.study.home(host), disk, dirs_exist_ok=True)
        (disk / "site-policy.toml").write_text(LENIENT_POLICY)
        for name in _FOLDERS:
            (disk / name).mkdir()
        for path in (disk, *disk.rglob("*"), server.data, *server.data.rglob("*")):
            os.chown(path, guest.USER_ID, guest.USER_ID)
        fstab = server.fstab(line.host, _POINT, owner=guest.USER_ID, more=_AT_NEED)
        files = {"etc/fstab": fstab, **_printed(folder / "units")}
        self.machine = guest.Guest(files, server.data, line, disk=disk)
        self.machine.enable(*units)
        self._rounds = self.machine.folder / "rounds"
        self._rounds.mkdir()
        (self._rounds / "begun").touch()
        for path in (self._rounds, self._rounds / "begun"):
            os.chown(path, guest.USER_ID, guest.USER_ID)
        self.hold(0)

    def hold(self, version: int) -> None:
        """Let the training from a version wait, and no other."""
        new = self._rounds / "new"
        new.write_text(f"{version}\n")
        new.replace(self._rounds / "hold")

    def wait_for_training(self, version: int, *, times: int = 1) -> None:
        """Wait until the training from a version has begun so often."""

        def has_begun() -> bool:
            return (self._rounds / "begun").read_text().split().count(str(version)) >= times

        wait_for(has_begun, at_most_s=_TRAINING_S, explain=self.describe)

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.machine.run("systemctl", "show", "-P", name, unit).strip()

    def describe(self) -> str:
        """Return what the machine's journal and systemd say."""
        shown = (
            "journalctl -n 100 --no-pager",
            "systemctl list-jobs",
            "systemctl --failed",
            "mount",
        )
        return self.machine.call("; ".join(shown)).stdout


def _printed(folder: Path) -> dict[str, str]:
    """Return the files that ``fedfs deploy print systemd`` prints, and the program they start."""
    environment = {**os.environ, "FEDFS_STORE": f"{_POINT}/organ", "FEDFS_HOME": HOME}
    for name in _FOLDERS:
        environment[f"nnUNet_{name}"] = f"{HOME}/{name}"
    command = [sys.executable, "-m", "fedfs", "deploy", "print", "systemd", "-o", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    files = {f"{_UNITS}/{path.name}": path.read_text() for path in folder.iterdir()}
    for path in folder.glob("*.timer"):
        files[f"{_UNITS}/{path.name}.d/soon.conf"] = _SOON
    files["etc/fedfs/fedfs.env"] = files.pop(f"{_UNITS}/fedfs.env")
    starts = files[f"{_UNITS}/{SERVICES[0]}"].partition("ExecStart=")[2]
    program = Path(shlex.split(starts)[0])
    files[str(program.parent.resolve() / program.name)[1:]] = _PROGRAM
    return files
