"""An ensemble of models: the mean of their probabilities, case by case.

Rules:
 * Each model predicts as nnU-Net's predictor does. Models of the same plan follow each other, and
   an image is preprocessed for them once.
 * What is averaged are probabilities in the geometry of the image, as ``nnUNetv2_ensemble`` does
   with those that ``nnUNetv2_predict --save_probabilities`` writes; logits are not.
 * One case is in memory at a time: its probabilities, and their sum. The weights of all models are,
   too. Nothing but segmentations is written.
 * Runs in a process of its own, see :mod:`fedfs.nnunet.system.isolated`.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.learner import EvaluationResult, OnProgress, Progress
from fedfs.nnunet.score.scored_folder import ScoreRequest, load_predictor, score_folder
from fedfs.nnunet.system.environment import limit_pools
from fedfs.nnunet.system.output import capture_output
from fedfs.nnunet.system.workers import single_process_pools_are_threads

log = logging.getLogger(__name__)


def predict_with_ensemble(request: ScoreRequest, on_progress: OnProgress) -> EvaluationResult:
    """Predict with all models, average, and score with nnU-Net's metrics.

    Raises:
        DatasetError: a model folder is incomplete.
    """
    limit_pools(request.host.num_processes)
    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with capture_output(log), single_process_pools_are_threads():
        from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

        predictors = [load_predictor(model, request) for model in (request.model, *request.others)]
        ending = predictors[0].dataset_json["file_ending"]
        reader = predictors[0].plans_manager.image_reader_writer_class()
        cases = create_lists_from_splitted_dataset_folder(request.images, ending)
        for number, files in enumerate(cases):
            on_progress(Progress("predict", number, len(cases), "case"))
            name = Path(files[0]).name.removesuffix(f"_0000{ending}")
            segmentation, properties = _predict(predictors, files)
            reader.write_seg(segmentation, str(output / f"{name}{ending}"), properties)
        result = score_folder(predictors[0], request, with_calibration=False)
    return replace(result, seconds=time.monotonic() - began)


def _predict(predictors: Sequence[Any], files: Sequence[str]) -> tuple[Any, Any]:
    """Return the segmentation of a case, and what nnU-Net's reader writes it with."""
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as in_shape_of_image,
    )

    image, properties, planned = None, None, None
    total = np.float32(0)
    for predictor in predictors:
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        if plans.plans != planned:
            preprocessor = configuration.preprocessor_class(verbose=False)
            image, _, properties = preprocessor.run_case(
                list(files), None, plans, configuration, predictor.dataset_json
            )
            planned = plans.plans
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image)).cpu()
        _, probabilities = in_shape_of_image(
            logits, plans, configuration, predictor.label_manager, properties,
            return_probabilities=True,
        )  # fmt: skip
        total = total + probabilities.astype(np.float32)
    mean = total / np.float32(len(predictors))
    return predictors[0].label_manager.convert_probabilities_to_segmentation(mean), properties
