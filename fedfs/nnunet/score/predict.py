"""Predictions and scores of model folders on images that they were not trained on.

A process predicts with all models that it is given, one after the other: nnU-Net is imported once.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from fedfs.learner import EvaluationResult, OnProgress, Progress
from fedfs.nnunet.score.case_metrics import delete_probabilities
from fedfs.nnunet.score.ensemble import predict_with_ensemble
from fedfs.nnunet.score.scored_folder import ScoreRequest, load_predictor, score_folder
from fedfs.nnunet.system.environment import limit_pools
from fedfs.nnunet.system.output import capture_output
from fedfs.nnunet.system.workers import single_process_pools_are_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreRequests:
    """Sets of images to predict and to score in one process, in this order."""

    parts: tuple[ScoreRequest, ...]


def predict_all(requests: ScoreRequests, on_progress: OnProgress) -> list[EvaluationResult]:
    """Predict and score set after set; see :func:`predict_and_score`.

    Raises:
        DatasetError: a model folder is incomplete.
    """
    results = []
    on_progress(Progress("predict", 0, len(requests.parts), "set"))
    for request in requests.parts:
        results.append(
            predict_with_ensemble(request, lambda _: None)
            if request.others
            else predict_and_score(request)
        )
        on_progress(Progress("predict", len(results), len(requests.parts), "set"))
    return results


def predict_and_score(request: ScoreRequest) -> EvaluationResult:
    """Predict with nnU-Net's predictor and score with its metrics: means over the cases.

    Raises:
        DatasetError: the model folder is incomplete.
    """
    limit_pools(request.host.num_processes)
    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with capture_output(log), single_process_pools_are_threads():
        predictor = load_predictor(request.model, request)
        if request.host.num_processes == 1:
            predictor.predict_from_files_sequential(
                request.images, request.output, save_probabilities=request.scores.calibration
            )
        else:
            predictor.predict_from_files(
                request.images,
                request.output,
                save_probabilities=request.scores.calibration,
                num_processes_preprocessing=request.host.num_processes,
                num_processes_segmentation_export=request.host.num_processes,
            )
        result = score_folder(predictor, request, with_calibration=request.scores.calibration)
        delete_probabilities(output)
    return replace(result, seconds=time.monotonic() - began)
