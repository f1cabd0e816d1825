"""Work on one case after the other, in this process or in several.

Rules:
 * Workers are spawned, never forked: this process may hold a GPU or threads.
 * A worker ends when this process does, also if this process is killed. nnU-Net's data loaders do
   not by themselves: they go on for ever and hold the GPU's memory.
 * nnU-Net's own pools of a single process are a thread of this one: a spawned process imports
   nnU-Net again, for seconds, and one beside this one shortens nothing.
 * What goes wrong with a case comes back as a value and is raised here with the case's name; a
   worker that vanishes was killed, usually for want of memory.
"""

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
from functools import cache
from multiprocessing.context import SpawnContext
from multiprocessing.pool import ThreadPool
from typing import Any, Protocol, TypeVar

from fedfs.errors import BROKEN_CASE_HINT, FedfsError, TrainingError

OUT_OF_MEMORY_HINT = "use fewer processes, or a machine with more memory"
BROKEN_CASE = "broken-case"
_REASON_LENGTH = 300


class Job(Protocol):
    """A case, or the work on it; picklable."""

    @property
    def name(self) -> str:
        """Name of the case."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


def map_cases(
    function: Callable[[J], R],
    jobs: Sequence[J],
    *,
    num_processes: int,
    on_broken: Callable[[str, str], None] | None = None,
) -> Iterator[R]:
    """Yield ``function(job)`` for every job, in order.

    Args:
        function: defined at the top of a module, or a partial one of such.
        jobs: picklable arguments.
        num_processes: 1 works in this process.
        on_broken: called with the name of a case that failed, and why, which then is passed over;
            None stops at the first.

    Raises:
        TrainingError: ``broken-case`` naming the first case that failed, or ``out-of-memory``.
    """
    for job, result in _results(function, jobs, num_processes):
        if not isinstance(result, TrainingError):
            yield result
        elif result.kind == BROKEN_CASE and on_broken is not None:
            on_broken(job.name, str(result))
        else:
            raise result


def _results(
    function: Callable[[J], R], jobs: Sequence[J], num_processes: int
) -> Iterator[tuple[J, R | TrainingError]]:
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
def single_process_pools_are_threads() -> Iterator[None]:
    """Let a pool of one process, which nnU-Net spawns in this block, be a thread."""
    spawned = SpawnContext.Pool

    def make_pool(
        self: SpawnContext, processes: int | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        return ThreadPool(1) if processes == 1 else spawned(self, processes, *args, **kwargs)

    SpawnContext.Pool = make_pool  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        SpawnContext.Pool = spawned  # type: ignore[method-assign]


@contextmanager
def forked_children_end_with_us() -> Iterator[None]:
    """Have the kernel kill processes that are forked here when this thread ends (Linux only)."""
    global _tie_forked  # noqa: PLW0603  the hook has no arguments
    _install_hook()
    _tie_forked = True
    try:
        yield
    finally:
        _tie_forked = False


def _guarded(function: Callable[[J], R], job: J) -> R | TrainingError:
    """Return what the function does, or what went wrong: errors are values between processes."""
    kind, hint = BROKEN_CASE, BROKEN_CASE_HINT
    try:
        return function(job)
    except FedfsError as error:
        kind = getattr(error, "kind", kind)
        hint = error.hint or (hint if kind == BROKEN_CASE else "")
        text = f": {error}"
    except MemoryError:
        kind, hint, text = "out-of-memory", OUT_OF_MEMORY_HINT, ": Out of memory."
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            kind, hint = "disk", ""
        text = f": {error}."
    except Exception as error:  # noqa: BLE001  readers of images raise anything; the case is named
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH].rstrip(".")
        text = f" cannot be processed: {reason}."
    return TrainingError(f"Case {job.name}{text}", kind=kind, hint=hint)


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
_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_tie_forked = False


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux only)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


@cache
def _install_hook() -> None:
    def tie() -> None:
        if _tie_forked:
            end_with_parent()

    os.register_at_fork(after_in_child=tie)
