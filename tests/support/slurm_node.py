"""A real SLURM of one node, with accounting: slurmctld, slurmd, slurmdbd, munge and MariaDB.

Rules:
 * Only root can start it, as slurmd does everywhere. It listens on loopback only: the daemons live
   where the name of the host is ``localhost``, as slurmdbd listens at the address of that name.
 * Everything is in one folder that nobody else can enter; the database has no other lock.
 * All daemons die with the process that started them, and with :meth:`stop` all jobs do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from support.servers import free_ports, wait_for

PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
_DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
_CLIENTS = ("sbatch", "srun", "sacct", "scancel", "scontrol", "squeue", "setpriv", "unshare")
_START_S = 90.0
_CONFIGURATION = """\
ClusterName=one
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer_batch
PropagateResourceLimits=NONE
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
KillWait=2
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=24 RealMemory=100000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
_ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
CommunicationParameters=NoInAddrAny
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed, or who would have to run them."""
    missing = [name for name in (*_CLIENTS, *_DAEMONS) if not _program(name)]
    return missing or ([] if os.geteuid() == 0 else ["the right to start slurmd (root)"])


class SlurmNode:
    """SLURM on this host.

    Attributes:
        environment: variables with which SLURM's commands find it.
    """

    def __init__(self) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="fedfs-slurm-", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        ports = dict(zip(("ctld", "slurmd", "dbd"), free_ports(3), strict=True))
        self._accounting_port = ports["dbd"]
        for name in ("db", "state", "spool"):
            (folder / name).mkdir()
        gpus = ("null", "zero")  # two devices that every machine has
        (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{n}\n" for n in gpus))
        for name, text in (("slurm.conf", _CONFIGURATION), ("slurmdbd.conf", _ACCOUNTING)):
            (folder / name).write_text(text.format(folder=folder, **ports))
            (folder / name).chmod(0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def call(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Return what a command of SLURM prints.

        Raises:
            RuntimeError: it failed.
        """
        return _output(command, {**os.environ, **self.environment, **(environment or {})})

    def state(self, job: str) -> str:
        """Return the state of a job, and behind a colon why it waits, as ``PENDING:BeginTime``."""
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T:%r").strip()

    def wait_for_state(self, job: str, state: str, *, at_most_s: float = 60.0) -> None:
        """Wait until the state of a job begins with ``state``."""
        wait_for(
            lambda: self.state(job).startswith(state),
            at_most_s=at_most_s,
            explain=lambda: self.state(job),
        )

    def facts(self, job: str) -> dict[str, str]:
        """Return what SLURM knows about a job, by its names."""
        words = self.call("scontrol", "show", "job", "-o", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def stop(self) -> None:
        """End all jobs and daemons and remove the folder; may be called again."""
        if len(self._processes) == len(_DAEMONS):
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.call("scancel", "--user=root")
                wait_for(lambda: not self.call("squeue", "-h"), at_most_s=15)
        for process in reversed(self._processes):
            process.kill()  # nothing that it holds is worth saving
            process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        folder = self._folder
        munge, database = folder / "munge", folder / "sql"
        self._spawn(
            *("munged", "--foreground", "--force", f"--socket={munge}"),
            *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid"),
            *(f"--seed-file={folder}/munge.seed", "--num-threads=2"),
        )
        self._spawn(
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/db"),
            *("--skip-networking", "--skip-grant-tables", f"--socket={database}"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M"),
        )
        self._wait(lambda: munge.exists() and database.exists())
        self._spawn("slurmdbd", "-D", MYSQL_UNIX_PORT=str(database))
        self._wait(lambda: socket.create_connection(("127.0.0.1", self._accounting_port)).close())
        self._spawn("slurmctld", "-D")
        self._spawn("slurmd", "-D", "-N", "localhost")
        self._wait(lambda: "idle" in self.call("sinfo", "-h", "-o", "%t"))

    def _spawn(self, name: str, *arguments: str, **variables: str) -> None:
        script = 'hostname localhost && exec "$0" "$@"'
        command = ["unshare", "--uts", "sh", "-c", script, _program(name), *arguments]
        with (self._folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **self.environment, **variables},
            )  # fmt: skip
        self._processes.append(process)

    def _wait(self, ready: Callable[[], object]) -> None:
        def check() -> bool:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args!r} ended: {self.logs()}")
            with contextlib.suppress(RuntimeError, OSError):
                return ready() is not False
            return False

        wait_for(check, at_most_s=_START_S, explain=self.logs)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        files = sorted(self._folder.glob("*.out"))
        return json.dumps({path.name: path.read_text(errors="replace")[-800:] for path in files})


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def _output(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def running() -> Iterator[SlurmNode]:
    """Run SLURM as long as the block does."""
    node = SlurmNode()
    try:
        yield node
    finally:
        node.stop()
