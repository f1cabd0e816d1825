"""Images to predict and to score: the request, nnU-Net's predictor, the scores of a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.learner import EvaluationResult
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.case_metrics import CaseMetrics
from fedfs.nnunet.score.summary import SUMMARY
from fedfs.nnunet.settings import DEFAULT_SCORES, ScoreOptions
from fedfs.nnunet.system.environment import HostSettings


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
        others: folders of further models, of which the mean of probabilities is taken; all are of
            the same labels, trainer, configuration and one fold, and calibration is not computed.
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


def load_predictor(model: str, request: ScoreRequest) -> Any:
    """Return nnU-Net's predictor with a model folder and the request's folds.

    Raises:
        DatasetError: the model folder is incomplete.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    read_json(Path(model, "dataset.json"))  # what nnU-Net says of a missing one is not clear
    predictor = nnUNetPredictor(
        use_mirroring=request.use_mirroring,
        device=classes.device(request.host.device),
        allow_tqdm=False,
    )
    folds = tuple(classes.fold_of(fold) for fold in request.fold.split(","))
    predictor.initialize_from_trained_model_folder(model, use_folds=folds)
    return predictor


def score_folder(
    predictor: Any, request: ScoreRequest, *, with_calibration: bool
) -> EvaluationResult:
    """Score what lies in the request's output folder with nnU-Net's metrics and our own.

    Args:
        predictor: nnU-Net's, that has predicted it.
        request: what was predicted.
        with_calibration: probabilities lie beside the predictions.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder

    manager, output = predictor.label_manager, Path(request.output)
    compute_metrics_on_folder(
        request.labels,
        request.output,
        str(output / SUMMARY),
        predictor.plans_manager.image_reader_writer_class(),
        predictor.dataset_json["file_ending"],
        manager.foreground_regions if manager.has_regions else manager.foreground_labels,
        manager.ignore_label,
        num_processes=request.host.num_processes,
    )
    metrics = CaseMetrics.of_model(
        predictor,
        tolerance_mm=request.scores.nsd_tolerance_mm,
        with_calibration=with_calibration,
    )
    return metrics.of_folder(output)
