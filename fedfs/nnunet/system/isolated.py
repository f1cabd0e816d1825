"""Runs one function of this package in a child process.

The aggregator and the command line stay free of nnunetv2 and torch: they start in a fraction of a
second, and a crash or a lack of memory in nnU-Net is an error message and not the end.

Rules:
 * Only the functions listed here can be called. Requests and results are JSON files, tensors are
   safetensors files beside them.
 * An error of fedfs in the child is the same error here. A child that dies says why as far as its
   last words tell.
 * Progress comes as JSON lines on the child's standard output, which nnU-Net cannot reach.
 * The child ends when its parent does, also if the parent is killed: it watches its standard input.

The child's side is :mod:`fedfs.nnunet.child`, which is started by its name and not imported here.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedfs
from fedfs import errors
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.system import requests

log = logging.getLogger(__name__)

FUNCTION_NAMES = (
    "plan",
    "check_trainer",
    "check_planner",
    "initial_weights",
    "convert_checkpoint",
    "read_model",
    "export",
    "train_round",
    "score",
    "score_ensemble",
    "cross_validate",
    "write_choice",
)
"""Names of the functions that a child may run."""

_CHILD = "fedfs.nnunet.child"
_LAST_WORDS = 2000
_LAST_LINE = 300


def run_isolated(
    function: str,
    request: Any,  # a dataclass of this package, or a dict
    *,
    environ: Mapping[str, str] | None = None,
    workdir: Path,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Call ``function`` in a child process and return its result.

    Args:
        function: one of ``FUNCTION_NAMES``.
        request: the function's request, or its fields as a dict; see
            :mod:`fedfs.nnunet.system.requests`.
        environ: variables to set in the child beside this process's own.
        workdir: existing folder for the request, the response and the log.
        on_progress: called with the child's progress.

    Raises:
        FedfsError: whatever the function raises.
        TrainingError: the child crashed (``crash``) or was killed (``out-of-memory``).
    """
    if function not in FUNCTION_NAMES:
        raise errors.UserError(f"{function!r} is not a function of {_CHILD}.")
    with tempfile.TemporaryDirectory(prefix=f"{function}-", dir=workdir) as folder:
        room = Path(folder)
        (room / "request.json").write_text(json.dumps(requests.to_json(request)), encoding="utf-8")
        with (room / "log.txt").open("wb") as words:
            child = subprocess.Popen(
                [sys.executable, "-m", _CHILD, function, str(room)],
                env={**os.environ, "PYTHONPATH": _python_path(), **(environ or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
            try:
                for line in child.stdout or ():
                    if on_progress is not None:
                        on_progress(Progress(**json.loads(line)))
                child.wait()  # before its standard input closes
            except BaseException:
                child.kill()
                raise
            finally:
                child.communicate()
        return _result(function, child.returncode, room)


def _result(function: str, returncode: int, room: Path) -> dict[str, Any]:
    response = room / "response.json"
    if returncode == 0 and response.exists():
        result: dict[str, Any] = json.loads(response.read_text(encoding="utf-8"))
        if "error" not in result:
            return result
        error = from_json(result["error"])
        if getattr(error, "kind", "") == "crash":
            _log_last_words(function, room)
        raise error
    words = _log_last_words(function, room)
    if returncode == -signal.SIGKILL:
        raise errors.TrainingError(
            f"nnU-Net was killed while it ran {function}, probably for want of memory.",
            kind="out-of-memory",
            hint="free memory on this host, or ask for a smaller gpu_memory_target_gb",
        )
    last = (words.strip().splitlines() or [f"exit code {returncode}"])[-1][:_LAST_LINE]
    raise errors.TrainingError(
        f"nnU-Net failed while it ran {function}: {last.rstrip('.')}.",
        kind="crash",
        hint="the log of this host has all that nnU-Net printed",
    )


def _log_last_words(function: str, room: Path) -> str:
    words = (room / "log.txt").read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:]
    log.error("%s failed in its process:\n%s", function, words)
    return words


def as_json(error: errors.FedfsError) -> dict[str, Any]:
    """Return an error as JSON values."""
    return {"type": type(error).__name__, "args": error.args, "attributes": vars(error)}


def from_json(fields: Mapping[str, Any]) -> errors.FedfsError:
    """Return the error that :func:`as_json` wrote down."""
    cls = getattr(errors, fields["type"], errors.FedfsError)
    error: errors.FedfsError = cls.__new__(cls, *fields["args"])
    vars(error).update(fields["attributes"])
    return error


def _python_path() -> str:
    package = str(Path(fedfs.__file__).parents[1])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
