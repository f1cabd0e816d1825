"""Functions that a child process of :mod:`fedfs.nnunet.system.isolated` may run.

Rules:
 * ``FUNCTIONS`` is all that can be called: those whose names :mod:`fedfs.nnunet.system.isolated`
   lists, so that the parent does not import this.
 * A function is imported when it is called: what one needs, another does not.
 * Progress is written to the standard output as JSON lines. What nnU-Net prints goes to the
   standard error.
 * The child ends when its parent does: it watches its standard input.
"""

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from fedfs import errors
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.system import isolated
from fedfs.nnunet.system.parent import when_input_ends
from fedfs.nnunet.system.requests import from_json


def main(function: str, room: Path) -> None:
    """Run in the child: read the request, call the function, write the response."""
    when_input_ends(lambda: os._exit(1))
    progress = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # workers of nnU-Net inherit it
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    request = json.loads((room / "request.json").read_text(encoding="utf-8"))
    try:
        response = FUNCTIONS[function](request, lambda p: _send(progress, p))
    except errors.FedfsError as error:
        response = {"error": isolated.as_json(error)}
    (room / "response.json").write_text(json.dumps(response), encoding="utf-8")


def _send(stream: TextIO, progress: Progress) -> None:
    stream.write(json.dumps(dataclasses.asdict(progress)) + "\n")
    stream.flush()


def _plan(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.plan.plans import PlanRequest, plan

    return dataclasses.asdict(plan(from_json(PlanRequest, request)))


def _check_trainer(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.allowed.classes import trainer_class

    return {"module": trainer_class(request["trainer"], request["allowed_trainers"]).__module__}


def _check_planner(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.allowed.classes import planner_class

    return {"module": planner_class(request["planner"]).__module__}


def _initial_weights(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.plan.plans import WeightsRequest, initial_weights

    initial_weights(from_json(WeightsRequest, request))
    return {"tensors": request["output"]}


def _convert_checkpoint(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.plan.pretrained import read_checkpoint
    from fedfs.tensors.canonical import write_safetensors

    write_safetensors(Path(request["output"]), read_checkpoint(Path(request["checkpoint"])))
    return {"tensors": request["output"]}


def _read_model(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.plan.trained_model import ReadRequest, read_model

    return dataclasses.asdict(read_model(from_json(ReadRequest, request)))


def _export(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.score.model_export import ExportRequests, export_model

    models = from_json(ExportRequests, request).models
    return {"models": [str(export_model(one)) for one in models]}


def _write_choice(request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.score.inference_information import ChoiceRequest, write_choice

    return {"folder": str(write_choice(from_json(ChoiceRequest, request)))}


def _train_round(request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.child_round import train_round
    from fedfs.nnunet.train.parallel import RoundRequest

    return train_round(from_json(RoundRequest, request), on_progress)


def _score(request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.score.predict import ScoreRequests, predict_all

    results = predict_all(from_json(ScoreRequests, request), on_progress)
    return {"results": [{**dataclasses.asdict(r), "mean_dice": r.mean_dice} for r in results]}


def _score_ensemble(request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.score.ensemble import predict_with_ensemble
    from fedfs.nnunet.score.scored_folder import ScoreRequest

    result = predict_with_ensemble(from_json(ScoreRequest, request), on_progress)
    return {**dataclasses.asdict(result), "mean_dice": result.mean_dice}


def _cross_validate(request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    from fedfs.nnunet.score.cross_validation import CrossValidationRequest, cross_validate
    from fedfs.protocol import codec

    made = cross_validate(from_json(CrossValidationRequest, request), on_progress)
    return dict(codec.to_json(made))


FUNCTIONS: Mapping[str, Callable[[dict[str, Any], OnProgress], dict[str, Any]]] = {
    name: globals()[f"_{name}"] for name in isolated.FUNCTION_NAMES
}
"""Name -> function of a request's fields and a callback for progress; returns JSON values."""


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
