"""Several hosts on one machine: a folder, an environment and operating-system processes for each.

Hosts share nothing but the store: each has its own nnU-Net folders, its own keys, its own
processes. No process of theirs outlives ours, whether it is interrupted by Ctrl-C, terminated by
SIGTERM, which a scheduler, ``timeout`` or ``docker stop`` sends to us alone, or killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any, TypeVar
from weakref import WeakSet

from fedfs.errors import FedfsError, Terminated
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.nnunet.system.parent import ENDS_WITH_INPUT
from fedfs.protocol import layout
from fedfs.roles.site.policy.file import NAME
from fedfs.simulation.gpu_slots import Slot
from fedfs.store.local_files import create_secret

_T = TypeVar("_T")
_R = TypeVar("_R")
_TERMINATE_S = 20.0
_LOOK_EVERY_S = 1.0
LENIENT_POLICY = """\
# One person holds all data of this simulation, so that small sites may take part.
minimum_cases = 1
models_elsewhere = true
"""
"""The policy of simulated sites."""
_processes: WeakSet[subprocess.Popen[bytes]] = WeakSet()
"""Every process of a host that this one has started."""
_interrupted = threading.Event()
"""Set where processes are being ended: threads that wait for one start no other then."""
_starting = threading.Lock()
"""Held while a process is started and noted, and while they are counted to be ended."""


@dataclass(frozen=True)
class Host:
    """One hospital's (or the coordinator's) machine, in a folder.

    Attributes:
        name: the site's name.
        folder: holds ``nnUNet_raw``, ``nnUNet_preprocessed``, ``nnUNet_results``, ``fedfs``, logs.
        slot: what its processes may use of this machine.
    """

    name: str
    folder: Path
    slot: Slot = field(default_factory=Slot)

    @property
    def raw(self) -> Path:
        """This host's ``nnUNet_raw``."""
        return self.folder / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """This host's ``nnUNet_preprocessed``."""
        return self.folder / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        """This host's ``nnUNet_results``."""
        return self.folder / "nnUNet_results"

    @property
    def paths(self) -> NnUNetPaths:
        """nnU-Net's folders of this host."""
        return NnUNetPaths(self.raw, self.preprocessed, self.results)

    def make(self) -> Host:
        """Make the folders."""
        for folder in (self.raw, self.preprocessed, self.results):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def write_policy(self, text: str) -> None:
        """Write the policy of the site on this host, unless it has one."""
        path = self.folder / "fedfs" / NAME
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            create_secret(path, text.encode())

    def environment(self) -> dict[str, str]:
        """Return the environment of this host's processes."""
        ours = ("nnUNet_", "FEDFS_")
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            **self.slot.variables(),
            "FEDFS_HOME": str(self.folder / "fedfs"),
            "FEDFS_SYSTEM_CONFIG": "",  # this machine's is not about its hosts
            **self.paths.variables(),
            "nnUNet_n_proc_DA": str(self.slot.workers),  # 0: augmentation in the training process
            "nnUNet_def_n_proc": str(max(1, self.slot.workers)),
            **dict.fromkeys(threads, str(self.slot.threads)),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *arguments: str) -> str:
        """Run a fedfs command to its end and return what it printed.

        Raises:
            FedfsError: it failed; with its standard error.
        """
        process = self._start(arguments, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE)
        try:
            out, err = process.communicate()
        finally:
            stop([process])
        if process.returncode != 0:
            raise FedfsError(
                f"fedfs {' '.join(arguments)} on {self.name} exited with {process.returncode}:\n"
                + err.decode(errors="replace").strip()
            )
        return out.decode()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a fedfs command as a process of its own; it logs to :attr:`log_path`.

        It ends with this one, or if nobody holds what is returned any more.
        """
        with self.log_path.open("ab") as log:
            return self._start(arguments, stdin=PIPE, stdout=log, stderr=subprocess.STDOUT)

    def _start(
        self, arguments: Sequence[str], *, stdin: int, stdout: IO[Any] | int, stderr: int
    ) -> subprocess.Popen[bytes]:
        with _starting:
            if _interrupted.is_set():
                raise FedfsError(f"{self.name} was interrupted.")
            process = subprocess.Popen(
                [sys.executable, "-m", "fedfs", *arguments],
                env={**self.environment(), **({ENDS_WITH_INPUT: "1"} if stdin == PIPE else {})},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
            _processes.add(process)
        return process

    @property
    def log_path(self) -> Path:
        """Log file of started processes."""
        return self.folder / "log.txt"

    def log_tail(self, n_lines: int = 15) -> str:
        """Return the end of the log."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-n_lines:])


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that still run, gently first."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=_TERMINATE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def ended_with_us() -> Iterator[None]:
    """End all processes of hosts when the block is interrupted, those of other threads too.

    Threads that wait for them then end by themselves, and no thread starts another.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        with _starting:
            _interrupted.set()
            started = list(_processes)
        stop(started)
        raise


def all_results(pool: Executor, act: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return what a call for each item returns, as ``pool.map`` does.

    The wait ends every second and goes on: Python heeds a signal that comes right before a wait
    only after it.

    Raises:
        Exception: of a call; those that have not begun are not made.
    """
    futures = [pool.submit(act, item) for item in items]
    try:
        while True:
            done, waiting = wait(futures, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # which raises
            if not waiting:
                return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


@dataclass(frozen=True)
class LocalStudy:
    """A study of hosts on this machine.

    Attributes:
        store: its folder.
        dataset: name of the raw dataset at every site.
        dataset_json: what all sites have to agree with.
        coordinator: also runs the aggregator.
        sites: site -> host.
        init: options of ``fedfs init``.
        join: site -> options of ``fedfs site join``.
        run: options of ``fedfs site run``.
    """

    store: Path
    dataset: str
    dataset_json: Path
    coordinator: Host
    sites: Mapping[str, Host]
    init: Sequence[str] = ()
    join: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Sequence[str] = ()

    @property
    def helper(self) -> Host | None:
        """Host of the helper, in a study with secure sums."""
        if "--secure-sums" not in self.init:
            return None
        return Host("helper", self.coordinator.folder.with_name("helper")).make()

    def begin(self) -> None:
        """Write the charter, let all sites join, approve them; or go on with that.

        Raises:
            FedfsError: a command failed; with its standard error.
        """
        store = str(self.store)
        if not (self.store / layout.charter(1)).exists():
            self.coordinator.run(
                "init", store, "--dataset-json", str(self.dataset_json),
                "--dataset-name", self.dataset, "--min-sites", str(len(self.sites)), *self.init,
            )  # fmt: skip
        for site, host in self.sites.items():  # asking again changes nothing
            host.write_policy(LENIENT_POLICY)
            options = self.join.get(site, ())
            host.run("site", "join", store, "--site", site, "--dataset", self.dataset, *options)
        self.coordinator.run("approve", store, "--all")
        if self.helper is not None:
            self.helper.run("helper", "join", store)
            self.coordinator.run("helper", "approve", store)

    def run_command(self, site: str, n_workers: int = 1) -> tuple[str, ...]:
        """Return the fedfs command by which a site takes part."""
        place = ("--site", site, "-np", str(n_workers))
        return ("site", "run", str(self.store), *place, *self.run)

    def federate(self, look: Callable[[], None] = lambda: None) -> None:
        """Run a process per site, one aggregator and the helper until all of them have finished.

        Args:
            look: called about every second meanwhile; what it raises ends the study.

        Raises:
            FedfsError: a process failed; with the end of its log.
        """
        hosts = {**self.sites, "aggregator": self.coordinator}
        hosts |= {"helper": self.helper} if self.helper is not None else {}
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for site, host in self.sites.items():
                command = self.run_command(site, max(1, host.slot.workers))
                processes[site] = host.start(*command)
            processes["aggregator"] = self.coordinator.start("aggregate", str(self.store))
            if self.helper is not None:
                processes["helper"] = self.helper.start("helper", "run", str(self.store))
            while True:
                codes = {name: process.poll() for name, process in processes.items()}
                look()
                for name, code in codes.items():
                    if code not in (None, 0):
                        raise FedfsError(
                            f"The process of {name} exited with {code}:\n{hosts[name].log_tail()}"
                        )
                if all(code == 0 for code in codes.values()):
                    return
                time.sleep(_LOOK_EVERY_S)
        finally:
            stop(list(processes.values()))
