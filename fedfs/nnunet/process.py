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
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import fedfs
from fedfs import errors
from fedfs.learner import Progress, Report

log = logging.getLogger(__name__)

_LAST_WORDS = 2000
_LAST_LINE = 300


def run_isolated(
    function: str,
    request: Any,  # a dataclass of this package; the type is not imported here
    *,
    environ: Mapping[str, str] | None = None,
    workdir: Path,
    report: Report | None = None,
) -> dict[str, Any]:
    """Call ``function`` in a child process and return its result.

    Args:
        function: ``plan``, ``check_trainer``, ``check_planner``, ``initial_weights``,
            ``convert_checkpoint``, ``export``, ``train_local``, ``train_round`` or ``score``.
        request: the function's request, or its fields as a dict.
        environ: variables to set in the child beside this process's own.
        workdir: existing folder for the request, the response and the log.
        report: called with the child's progress.

    Raises:
        FedfsError: whatever the function raises.
        TrainingError: the child crashed (``crash``) or was killed (``out-of-memory``).
    """
    if function not in _functions():
        raise errors.UserError(f"{function!r} is not a function of {__name__}")
    fields = request if isinstance(request, dict) else dataclasses.asdict(request)
    with tempfile.TemporaryDirectory(prefix=f"{function}-", dir=workdir) as folder:
        room = Path(folder)
        (room / "request.json").write_text(json.dumps(fields), encoding="utf-8")
        with (room / "log.txt").open("wb") as words:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, function, str(room)],
                env={**os.environ, "PYTHONPATH": _python_path(), **(environ or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
            try:
                _relay(child, report)
                child.wait()  # before its standard input closes
            except BaseException:
                child.kill()
                raise
            finally:
                child.communicate()
        return _result(function, child.returncode, room)


def _relay(child: subprocess.Popen[str], report: Report | None) -> None:
    if child.stdout is None:
        return
    for line in child.stdout:
        if report is not None:
            report(Progress(**json.loads(line)))


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
            f"nnU-Net was killed while it ran {function}, probably for want of memory",
            kind="out-of-memory",
            hint="free memory on this host, or ask for a smaller gpu_memory_target_gb",
        )
    last = (words.strip().splitlines() or [f"exit code {returncode}"])[-1]
    raise errors.TrainingError(
        f"nnU-Net failed while it ran {function}: {last[:_LAST_LINE]}", kind="crash"
    )


def _log_last_words(function: str, room: Path) -> str:
    words = (room / "log.txt").read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:]
    log.error("%s failed in its process:\n%s", function, words)
    return words


def as_json(error: errors.FedfsError) -> dict[str, str]:
    """Return an error as JSON values."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "hint": error.hint,
        "kind": getattr(error, "kind", ""),
    }


def from_json(fields: Mapping[str, Any]) -> errors.FedfsError:
    """Return the error that :func:`as_json` wrote down."""
    cls = getattr(errors, fields["type"], errors.FedfsError)
    if cls is errors.TrainingError:
        return errors.TrainingError(fields["message"], kind=fields["kind"], hint=fields["hint"])
    error: errors.FedfsError = cls(fields["message"], hint=fields["hint"])
    return error


def _python_path() -> str:
    package = str(Path(fedfs.__file__).parents[1])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def _functions() -> dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]]:
    return {
        "plan": _plan,
        "check_trainer": _check_trainer,
        "check_planner": _check_planner,
        "initial_weights": _initial_weights,
        "convert_checkpoint": _convert_checkpoint,
        "export": _export,
        "train_local": _train_local,
        "train_round": _train_round,
        "score": _score,
        "cross_validate": _cross_validate,
        "write_choice": _write_choice,
    }


def _plan(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.plans import PlanRequest, plan

    return dataclasses.asdict(plan(PlanRequest(**request)))


def _check_trainer(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.classes import trainer_class

    return {"module": trainer_class(request["trainer"], request["allowed_trainers"]).__module__}


def _check_planner(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.classes import planner_class

    return {"module": planner_class(request["planner"]).__module__}


def _initial_weights(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.plans import WeightsRequest, initial_weights

    initial_weights(WeightsRequest(**request))
    return {"tensors": request["output"]}


def _convert_checkpoint(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.pretrained import convert_checkpoint

    convert_checkpoint(Path(request["checkpoint"]), Path(request["output"]))
    return {"tensors": request["output"]}


def _export(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.export import ExportRequest, export_model

    return {"models": [str(export_model(ExportRequest(**one))) for one in request["models"]]}


def _write_choice(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.inference import ChoiceRequest, write_choice

    return {"folder": str(write_choice(ChoiceRequest(**request)))}


def _train_local(request: dict[str, Any], report: Report) -> dict[str, Any]:
    from fedfs.nnunet.baseline import LocalRequest, train_local

    return {"model": str(train_local(LocalRequest(**request), report))}


def _train_round(request: dict[str, Any], report: Report) -> dict[str, Any]:
    from fedfs.nnunet.several_gpus import RoundRequest, train_round

    return train_round(RoundRequest(**request), report)


def _score(request: dict[str, Any], _: Report) -> dict[str, Any]:
    from fedfs.nnunet.predict import ScoreRequest, as_json, predict_and_score

    return as_json(predict_and_score(ScoreRequest(**request)))


def _cross_validate(request: dict[str, Any], report: Report) -> dict[str, Any]:
    from fedfs.nnunet.crossval import CrossValidationRequest, cross_validate
    from fedfs.protocol import codec

    made = codec.to_json(cross_validate(CrossValidationRequest(**request), report))
    return dict(made) if isinstance(made, dict) else {}


def main(function: str, room: Path) -> None:
    """Run in the child: read the request, call the function, write the response."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # workers of nnU-Net inherit it
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    request = json.loads((room / "request.json").read_text(encoding="utf-8"))
    try:
        response = _functions()[function](request, lambda p: _send(progress, p))
    except errors.FedfsError as error:
        response = {"error": as_json(error)}
    (room / "response.json").write_text(json.dumps(response), encoding="utf-8")


def _send(stream: TextIO, progress: Progress) -> None:
    stream.write(json.dumps(dataclasses.asdict(progress)) + "\n")
    stream.flush()


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that waits in it blocks the interpreter's shutdown.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
