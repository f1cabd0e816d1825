"""A small machine of its own: Debian's Linux as a process, with systemd as its first process.

It is for what this host's kernel may not have: mounts of NFS and SMB, units, a power cut.

Rules:
 * The guest sees this host's files and cannot change them; so programs, Python and fedfs are those
   of the tests. What it writes lies in its memory, and is lost with it.
 * What it keeps lies on its disk, at ``/var/lib/fedfs``, or in ``/guest``, a folder of this host.
 * It reaches servers of this host by a :class:`~support.guest_line.GuestLine`, and this host
   reaches it there by SSH. That takes root.
 * Its processes run on this host's processors, one at a time; each system call is a detour.
 * It dies with the process that started it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from support import guest_kernel
from support.guest_line import GuestLine
from support.servers import missing_of, wait_for

PACKAGES = f"{guest_kernel.PACKAGES} openssh-server systemd e2fsprogs iproute2"
USER, USER_ID = "fedfs", 4711
ROOT = Path(__file__).parents[2]
_SSHD, _SYSTEMD, _TUN = "/usr/sbin/sshd", "/lib/systemd/systemd", "/dev/net/tun"
_START_S = 600.0
_MEMORY_MB, _DISK_MB = 2048, 128
_SSHD_CONFIGURATION = """\
HostKey /guest/host_key
AuthorizedKeysFile /guest/client_key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
MaxStartups 100
KexAlgorithms curve25519-sha256
UseDNS no
"""
_SSH_UNIT = f"""\
[Unit]
Description=SSH for the tests
[Service]
ExecStart={_SSHD} -D -e -f /guest/sshd_config
RuntimeDirectory=sshd
Restart=always
[Install]
WantedBy=multi-user.target
"""
_JOURNAL = "[Journal]\nStorage=volatile\n"
_PREPARE = """\
echo '{user}:x:{id}:{id}::/var/lib/fedfs:/usr/sbin/nologin' >> /new/etc/passwd
echo '{user}:x:{id}:' >> /new/etc/group
sed -i '/^root:/s#:[^:]*$#:/bin/sh#' /new/etc/passwd
for folder in {closed}; do chmod a+x "/new$folder"; done
mkdir -p /new/var/lib/fedfs
mount -t ext4 /dev/ubda /new/var/lib/fedfs
chown {id}:{id} /new/var/lib/fedfs
[ -s /new/etc/machine-id ] || echo {machine} > /new/etc/machine-id
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed, and files that are not there."""
    kernel = (guest_kernel.PROGRAM, "busybox")
    missing = missing_of(*kernel, _SSHD, _SYSTEMD, "ssh", "ssh-keygen", "mke2fs", "unshare", "ip")
    if os.geteuid() != 0:
        missing.append("the right to make a device of the network (root)")
    return missing + ([] if Path(_TUN).exists() else [_TUN])


class Guest:
    """The machine.

    Args:
        files: path below ``/`` -> text of files that only the guest has; of a script, what begins
            with ``#!``, the mode says so.
        served: folder of this host that is ``/guest/served`` there, behind the back of any mount.
        line: to this host.
        disk: folder whose files are on its disk when it starts for the first time.

    Attributes:
        folder: ``/guest`` of the guest.
    """

    def __init__(
        self, files: Mapping[str, str], served: Path, line: GuestLine, *, disk: Path | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedfs-guest-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self._served = served
        self._line = line
        for name in ("host_key", "client_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(command, check=True, capture_output=True)
        (self.folder / "sshd_config").write_text(_SSHD_CONFIGURATION)
        own = {
            "etc/systemd/system/guest-ssh.service": _SSH_UNIT,
            "etc/systemd/journald.conf.d/guest.conf": _JOURNAL,
        }
        for name, text in {**own, **files}.items():
            self._write(self.folder / "root" / name, text)
        self.enable("guest-ssh")
        wants = self.folder / "root/etc/systemd/system/multi-user.target.wants"
        (wants / "remote-fs.target").symlink_to("/lib/systemd/system/remote-fs.target")
        closed = " ".join(shlex.quote(str(path)) for path in _closed_folders())
        prepare = _PREPARE.format(user=USER, id=USER_ID, closed=closed, machine="f" * 31 + "e")
        (self.folder / "prepare").write_text(prepare)
        guest_kernel.write_initramfs(self.folder / "initramfs", self.folder / "collected")
        content = [] if disk is None else ["-d", str(disk)]
        command = [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            *content,
            str(self.folder / "disk"),
            f"{_DISK_MB}M",
        ]
        subprocess.run(command, check=True, capture_output=True)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)

    def enable(self, *units: str) -> None:
        """Let it start units whenever it is switched on, as ``systemctl enable`` does."""
        root = f"--root={self.folder / 'root'}"
        subprocess.run(["systemctl", root, "enable", *units], check=True, capture_output=True)

    def start(self) -> None:
        """Switch it on and wait until it answers.

        Raises:
            RuntimeError: it does not; with what it has printed.
        """
        options = [
            f"mem={_MEMORY_MB}M", f"initrd={self.folder / 'initramfs'}",
            f"ubd0={self.folder / 'disk'}", f"uml_dir={self.folder / 'uml'}", "con=null",
            "con0=null,fd:1", f"vec0:transport=tap,ifname={self._line.device},depth=64,gro=1",
            f"ADDRESS={self._line.guest}", f"FOLDER={self.folder}", f"SERVED={self._served}",
            "systemd.unit=multi-user.target", "systemd.show_status=no", "loglevel=4", "panic=-1",
        ]  # fmt: skip
        # Killed with the first process of their own are all processes of the guest.
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        with (self.folder / "console").open("ab") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *apart, guest_kernel.PROGRAM, *options],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_for(self._answers, at_most_s=_START_S, explain=self.describe)

    def kill(self) -> None:
        """Take its power away; what it has not written to its disk is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def call(self, *command: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command of the guest's shell as root; return how it ended and what it printed.

        Args:
            command: words that need no quoting, or one line for the shell.
            timeout_s: for which it may run.
        """
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
                   "BatchMode=yes", "ConnectTimeout=20", "IdentitiesOnly=yes")  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        place = ["-i", str(self.folder / "client_key"), f"root@{self._line.guest}"]
        return subprocess.run(
            ["ssh", "-F", "none", *words, *place, " ".join(command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def run(self, *command: str, timeout_s: float = 300.0) -> str:
        """Run a command as :meth:`call` does; return what it printed.

        Raises:
            RuntimeError: it failed; with what it printed.
        """
        done = self.call(*command, timeout_s=timeout_s)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def wait_for(self, *command: str, at_most_s: float = 300.0) -> None:
        """Wait until a command ends well.

        Raises:
            RuntimeError: that takes too long; with what it printed, and the guest's journal.
        """
        deadline_s = time.monotonic() + at_most_s
        while (done := self.call(*command)).returncode:
            if time.monotonic() > deadline_s:
                journal = self.call("journalctl -n 80 --no-pager").stdout
                raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}\n{journal}")
            time.sleep(1)

    def describe(self) -> str:
        """Return the end of what its kernel and systemd have printed."""
        return (self.folder / "console").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{guest_kernel.PROGRAM} ended: {self.describe()}")
        try:
            return self.call("true", timeout_s=60).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def python_command(*words: str) -> str:
    """Return a command of the guest that runs this Python with the checkout's packages."""
    path = f"PYTHONPATH={ROOT}:{ROOT / 'tests'}"
    return shlex.join(["env", path, "OMP_NUM_THREADS=1", sys.executable, *words])


def _closed_folders() -> Sequence[Path]:
    """Return the folders above Python and the checkout that others may not enter."""
    used = (Path(sys.executable).resolve(), Path(sys.prefix).resolve(), ROOT)
    above = {parent for path in used for parent in (path, *path.parents)}
    return sorted(p for p in above if p.is_dir() and not p.stat().st_mode & 0o001)
