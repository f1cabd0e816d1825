"""Predictions and scores of model folders on images that they were not trained on.

A process predicts with all models that it is given, one after the other: nnU-Net is imported once.
"""

import logging
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from fedfs.learner import EvaluationResult, OnProgress, Progress
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.case_metrics import CaseMetrics, delete_probabilities
from fedfs.nnunet.score.ensemble import EnsembleRequest, predict_with_ensemble
from fedfs.nnunet.score.summary import SUMMARY
from fedfs.nnunet.settings import DEFAULT_SCORES, ScoreOptions
from fedfs.nnunet.system.environment import HostSettings, limit_pools
from fedfs.nnunet.system.output import capture_output
from fedfs.nnunet.system.workers import single_process_pools_are_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Images to predict with a model, and to score.

    Attributes:
        model: model folder, ``.../nnUNetTrainer__nnUNetPlans__2d``.
        fold: a number or ``all``; or several, with commas, whose predictions are averaged.
        images: folder of images named as in ``imagesTs``.
        labels: folder of their segmentations.
        output: folder for predictions, ``summary.json`` and ``case_scores.json``.
        host: hardware to predict with.
        use_mirroring: nnU-Net's test-time augmentation.
        scores: options of the metrics of single cases.
        others: folders of further models, of which the mean of probabilities is taken.
    """

    model: str
    fold: str
    images: str
    labels: str
    output: str
    host: HostSettings
    use_mirroring: bool = True
    scores: ScoreOptions = DEFAULT_SCORES
    others: tuple[str, ...] = ()


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
        results.append(_ensemble(request) if request.others else predict_and_score(request))
        on_progress(Progress("predict", len(results), len(requests.parts), "set"))
    return results


def _ensemble(request: ScoreRequest) -> EvaluationResult:
    common = {field.name for field in fields(EnsembleRequest)} - {"models"}
    same = {name: getattr(request, name) for name in common}
    models = (request.model, *request.others)
    return predict_with_ensemble(EnsembleRequest(models=models, **same), lambda _: None)


def predict_and_score(request: ScoreRequest) -> EvaluationResult:
    """Predict with nnU-Net's predictor and score with its metrics: means over the cases.

    Raises:
        DatasetError: the model folder is incomplete.
    """
    limit_pools(request.host.num_processes)
    dataset_json = read_json(Path(request.model, "dataset.json"))
    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with capture_output(log), single_process_pools_are_threads():
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=request.use_mirroring,
            device=classes.device(request.host.device),
            allow_tqdm=False,
        )
        folds = tuple(classes.fold_of(fold) for fold in request.fold.split(","))
        predictor.initialize_from_trained_model_folder(request.model, use_folds=folds)
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
        manager = predictor.label_manager
        compute_metrics_on_folder(
            request.labels,
            request.output,
            str(output / SUMMARY),
            predictor.plans_manager.image_reader_writer_class(),
            dataset_json["file_ending"],
            manager.foreground_regions if manager.has_regions else manager.foreground_labels,
            manager.ignore_label,
            num_processes=request.host.num_processes,
        )
        metrics = CaseMetrics.of_model(
            predictor,
            tolerance_mm=request.scores.nsd_tolerance_mm,
            with_calibration=request.scores.calibration,
        )
        result = metrics.of_folder(output)
        delete_probabilities(output)
    return replace(result, seconds=time.monotonic() - began)
