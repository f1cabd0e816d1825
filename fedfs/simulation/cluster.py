"""Tasks of hosts as jobs of SLURM, or as processes of this machine; the only home of submitit.

Rules:
 * A job does one thing of one host and may do it again: it may die at any moment.
 * Jobs go on when the process that submitted them is killed. The next start takes over what is in
   SLURM's queue; what runs here is waited for by the job that wants to do the same.
 * Interrupted (Ctrl-C), we cancel our jobs.
 * A job that is suspended is waited for.
 * No job is requeued: preempted, out of time, killed or failed, it is an error with its number and
   the end of the host's log. The jobs beside it end what they do; then the error is raised.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfs.errors import FedfsError, SetupError, Terminated
from fedfs.roles.lock import hold_lock
from fedfs.simulation.gpu_slots import set_visible_gpus, visible_gpus
from fedfs.simulation.jobs import SUCCESS_CODES, Task

if TYPE_CHECKING:
    from submitit import Job

log = logging.getLogger(__name__)

SLURM, LOCAL = KINDS = ("slurm", "local")
_COMMANDS = ("sbatch", "srun", "sacct", "scancel")
_LOOK_EVERY_S = 1.0
_SLURM_MINUTES = 12 * 60
_LOCAL_MINUTES = 366 * 24 * 60  # submitit ends a process of this machine after two otherwise
_ASK_EVERY_S = 600  # SLURM about all jobs, at the latest
_SLURM_ENDS_S = 60.0  # it kills what is left of a job after KillWait, by default 30 s
_NOT_ENDED = ("PENDING", "RUNNING", "COMPLETING")
"""States that SLURM's accounting may still have of a job that has ended."""
_PAUSED = ("SUSPENDED", "RESIZING")
"""States that submitit takes for ends, and that are none."""


class Cluster:
    """Runs tasks as jobs.

    Args:
        kind: ``slurm``, or ``local``: processes of this machine.
        parameters: SLURM's, as :func:`~fedfs.simulation.slurm_parameters.parse_parameters` returns
            them.
        at_once: jobs that are submitted at the same time; 0 for all.

    Attributes:
        kind: as given.
        n_cpus: those of a job; None where jobs share this machine.

    Raises:
        SetupError: submitit is not installed, or this host is none that submits jobs.
    """

    def __init__(self, kind: str, parameters: Mapping[str, Any], *, at_once: int = 0) -> None:
        submitit, _ = _load_submitit()
        missing = [name for name in _COMMANDS if kind == SLURM and shutil.which(name) is None]
        if missing:
            raise SetupError(
                f"This host has no SLURM: there is no command {missing[0]}.",
                hint="run it where jobs are submitted, or with --cluster local on this machine",
            )
        if kind == SLURM:
            submitit.SlurmJob.watcher = _patient_watcher()
        self.kind = kind
        self._parameters = _as_submitit_wants(kind, parameters)
        self._at_once = at_once
        self.n_cpus: int | None = None if kind == LOCAL else parameters.get("cpus_per_task", 1)
        self._running: set[Job[int]] = set()
        self._interrupted = threading.Event()

    def run(self, tasks: Sequence[Task]) -> list[int]:
        """Run each task as a job; return their exit codes, in order.

        Raises:
            FedfsError: a job failed, when those beside it have ended.
        """
        waiting = list(enumerate(tasks))
        running: dict[int, Job[int]] = {}
        codes: dict[int, int] = {}
        failed: FedfsError | None = None
        while running or (waiting and failed is None):
            while waiting and failed is None and len(running) < (self._at_once or len(tasks)):
                number, task = waiting.pop(0)
                running[number] = self._begin(task)
            time.sleep(_LOOK_EVERY_S)
            if self._interrupted.is_set():
                raise FedfsError("The experiment was interrupted.")
            for number in [number for number, job in running.items() if _has_ended(job)]:
                try:
                    codes[number] = self._end(tasks[number], running.pop(number))
                except FedfsError as error:
                    failed = failed or error
                    if running or failed is not error:
                        log.warning("%s", error)
        if failed is not None:
            raise failed
        return [codes[number] for number in range(len(tasks))]

    @contextlib.contextmanager
    def cancelled_with_us(self) -> Iterator[None]:
        """Cancel all jobs when the block is left by Ctrl-C or SIGTERM."""
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            self._interrupted.set()
            for job in list(self._running):
                job.cancel(check=False)
            raise

    def _begin(self, task: Task) -> Job[int]:
        submitit, errors = _load_submitit()
        host = task.host
        folder = host.folder / "jobs"
        job = _left_over(folder) if self.kind == SLURM else None
        if job is not None:
            log.warning("job %s of %s goes on from an earlier start", job.job_id, host.name)
        else:
            executor = submitit.AutoExecutor(folder, cluster=self.kind)
            executor.update_parameters(name=f"fedfs-{host.name}", **self._parameters)
            call = (_work, task) if self.kind == SLURM else (_work_here, task, visible_gpus())
            try:
                job = executor.submit(*call)
            except (errors.FailedJobError, errors.FailedSubmissionError) as error:
                raise FedfsError(f"SLURM refuses a job of {host.name}: {error}.") from error
        self._running.add(job)
        return job

    def _end(self, task: Task, job: Job[int]) -> int:
        """Return a job's exit code.

        Raises:
            FedfsError: it is not one of :data:`~fedfs.simulation.jobs.SUCCESS_CODES`.
        """
        _, errors = _load_submitit()
        host, code, how = task.host, 1, "was preempted"
        try:
            if job.done():
                code = job.result()
                how = f"exited with {code}"
                if code not in SUCCESS_CODES and self.kind == SLURM:
                    how = _end_by_slurm(job) or how
        except errors.FailedJobError as error:
            how = _why(error)
        except errors.UncompletedJobError:
            how = f"ended as {_state(job)}"
        self._running.discard(job)
        _forget(job)
        if code in SUCCESS_CODES:
            return code
        raise FedfsError(
            f"Job {job.job_id} of {host.name} {how}:\n{host.log_tail()}",
            hint=f"the job's own log is {job.paths.stdout}; what is done is kept, and the same "
            "command goes on from there",
        )


def _work(task: Task) -> int:
    """Do a task when no other job is at work for its host; called in the job."""
    while True:
        with hold_lock(task.host.folder / "job.lock") as holder:
            if not holder:
                return task()
        time.sleep(_LOOK_EVERY_S)


def _work_here(task: Task, gpus: str | None) -> int:
    """Do a task with the GPUs that whoever submitted it has; submitit hides all of them."""
    set_visible_gpus(gpus)
    return _work(task)


def _left_over(folder: Path) -> Job[int] | None:
    """Return the job of an earlier start that SLURM still has for a host, if there is one."""
    submitit, _ = _load_submitit()
    for path in sorted(folder.glob("*_submitted.pkl")):
        job: Job[int] = submitit.SlurmJob(folder, path.name.removesuffix("_submitted.pkl"))
        if not job.done(force_check=True):
            return job
        _forget(job)  # nobody asks what became of it: its turn is taken again
    return None


def _forget(job: Job[int]) -> None:
    """Remove a job's pickles: what it was asked and what it answered; its logs stay."""
    job.paths.submitted_pickle.unlink(missing_ok=True)
    job.paths.result_pickle.unlink(missing_ok=True)


def _has_ended(job: Job[int]) -> bool:
    return bool(job.done() or job.state == "PREEMPTED")  # submitit waits for a second run


def _patient_watcher() -> Any:
    """Return what asks SLURM about jobs; a job that is suspended goes on, and has not ended."""
    from submitit.slurm.slurm import SlurmInfoWatcher  # noqa: PLC0415  an extra

    class Watcher(SlurmInfoWatcher):  # type: ignore[misc]  # submitit has no types
        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            return super().is_done(job_id, mode) and self.get_state(job_id, "cache") not in _PAUSED

    return Watcher(delay_s=_ASK_EVERY_S)


def _state(job: Job[int]) -> str:
    info = job.get_info(mode="force")
    return info.get("State") or info.get("jobState") or "UNKNOWN"


def _end_by_slurm(job: Job[int]) -> str:
    """Return how SLURM ended a job that has failed; "" where it did not.

    What it ends is first told so by SIGTERM, and fedfs may have left in good order by then.
    """
    give_up_s = time.monotonic() + _SLURM_ENDS_S
    while (state := _state(job)) in _NOT_ENDED and time.monotonic() < give_up_s:
        time.sleep(_LOOK_EVERY_S)
    if state in (*_NOT_ENDED, "COMPLETED", "FAILED", "UNKNOWN"):
        return ""
    return "was preempted" if state == "PREEMPTED" else f"ended as {state}"


def _why(error: Exception) -> str:
    """Return what went wrong in a job, from submitit's text: dashes, a trace, dashes, advice."""
    text = str(error)
    if "timed-out" in text:
        return "ran out of time: give it more, --slurm timeout_min=MINUTES"
    trace = text.rpartition("\n----")[0] or text
    return f"failed: {trace.strip().splitlines()[-1]}"


def _as_submitit_wants(kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if kind == LOCAL:
        return {"timeout_min": _LOCAL_MINUTES, "stderr_to_stdout": True}
    out: dict[str, Any] = {"timeout_min": _SLURM_MINUTES, "stderr_to_stdout": True}
    common = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
    for name, value in parameters.items():
        out[name if name in common else f"slurm_{name}"] = value
    if "cpus_per_task" in parameters:  # srun does not ask sbatch, since SLURM 22.05
        out["slurm_srun_args"] = [f"--cpus-per-task={parameters['cpus_per_task']}"]
    out["slurm_additional_parameters"] = {"no-requeue": True}
    return out


def _load_submitit() -> tuple[Any, Any]:
    """Return submitit, and the module that has its exceptions.

    Raises:
        SetupError: it is not installed.
    """
    try:
        import submitit  # noqa: PLC0415  an extra
        from submitit.core import utils  # noqa: PLC0415  same
    except ModuleNotFoundError as error:
        raise SetupError(
            f"--cluster needs the package {error.name}, which is not installed.",
            hint="run: pip install 'fedfs[cluster]'",
        ) from error
    logging.getLogger("submitit").handlers.clear()  # they write to standard output
    return submitit, utils
