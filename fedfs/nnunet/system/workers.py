"""Work on one case after the other, in this process or in several.

Rules:
 * Workers are spawned, never forked: this process may hold a GPU or threads.
 * A worker ends when this process does, also if this process is killed. nnU-Net's data loaders do
   not by themselves: they go on for ever and hold the GPU's memory.
 * What goes wrong with a case comes back as a value and is raised here with the case's name; a
   worker that vanishes was killed, usually for want of memory.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

from fedfs.errors import FedfsError, TrainingError

OUT_OF_MEMORY_HINT = "use fewer processes, or a machine with more memory"
BROKEN_CASE = "broken-case"
BROKEN_CASE_HINT = "repair it, or go on without it: --skip-broken-cases"
_REASON_LENGTH = 300


class Job(Protocol):
    """Work on one case; picklable."""

    @property
    def name(self) -> str:
        """Name of the case."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True)
class _Failure:
    """An error in a form that survives the way between processes."""

    kind: str
    message: str
    hint: str


def map_cases(
    function: Callable[[J], R],
    jobs: Sequence[J],
    *,
    num_processes: int,
    on_broken: Callable[[str, str], None] | None = None,
) -> Iterator[R]:
    """Yield ``function(job)`` for every job, in order.

    Args:
        function: defined at the top of a module.
        jobs: picklable arguments.
        num_processes: 1 works in this process.
        on_broken: called with the name of a case that failed, and why, which then is passed over;
            None stops at the first.

    Raises:
        TrainingError: ``broken-case`` naming the first case that failed, or ``out-of-memory``.
    """
    for job, result in _results(function, jobs, num_processes):
        if not isinstance(result, _Failure):
            yield result
        elif result.kind == BROKEN_CASE and on_broken is not None:
            on_broken(job.name, result.message)
        else:
            hint = result.hint or (BROKEN_CASE_HINT if result.kind == BROKEN_CASE else "")
            raise TrainingError(result.message, kind=result.kind, hint=hint)


def _results(
    function: Callable[[J], R], jobs: Sequence[J], num_processes: int
) -> Iterator[tuple[J, R | _Failure]]:
    if num_processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _guarded(function, job)
        return
    pool = ProcessPoolExecutor(
        max_workers=min(num_processes, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    try:
        futures = [pool.submit(_guarded, function, job) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            yield job, future.result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "A worker process was killed, probably for want of memory.",
            kind="out-of-memory",
            hint=OUT_OF_MEMORY_HINT,
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def forked_children_end_with_us() -> Iterator[None]:
    """Have the kernel kill processes that are forked here when this thread ends (Linux only)."""
    global _tie_forked  # noqa: PLW0603  the hook has no arguments
    if not sys.platform.startswith("linux"):
        yield
        return
    _install_hook()
    _tie_forked = True
    try:
        yield
    finally:
        _tie_forked = False


def _guarded(function: Callable[[J], R], job: J) -> R | _Failure:
    try:
        return function(job)
    except TrainingError as error:
        return _Failure(error.kind, f"Case {job.name}: {error}", error.hint)
    except FedfsError as error:
        return _Failure(BROKEN_CASE, f"Case {job.name}: {error}", error.hint)
    except MemoryError:
        return _Failure("out-of-memory", f"Case {job.name}: Out of memory.", OUT_OF_MEMORY_HINT)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        kind = "disk" if full else BROKEN_CASE
        return _Failure(kind, f"Case {job.name}: {error}.", "")
    except Exception as error:  # noqa: BLE001  readers of images raise anything; the case is named
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH].rstrip(".")
        return _Failure(BROKEN_CASE, f"Case {job.name} cannot be processed: {reason}.", "")


def _start_worker() -> None:
    # The pool gives parallelism; libraries that start threads of their own would multiply it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for as long as it lives
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_PR_SET_PDEATHSIG = 1
_tie_forked = False


@cache
def _install_hook() -> None:
    libc = ctypes.CDLL(None)

    def tie() -> None:
        if _tie_forked:
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    os.register_at_fork(after_in_child=tie)
