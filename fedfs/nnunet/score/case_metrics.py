"""Metrics of single cases, class by class, from segmentations that nnU-Net has scored.

Rules:
 * They stay at the site: names of cases are in them.
 * Dice is nnU-Net's own, out of its ``summary.json``; the others are computed here.
 * A metric that is not defined in a case is not there: the Dice of a class that neither reference
   nor prediction has, a distance to what is empty, the volume of an image in two dimensions.
 * Voxels that the reference says to ignore are in no class, neither in reference nor prediction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.learner import EvaluationResult, OnProgress, Progress
from fedfs.nnunet.data.dataset_json import has_regions, read_json
from fedfs.nnunet.score.calibration import calibration_error
from fedfs.nnunet.score.distances import (
    Mask,
    bounding_box,
    has_spacing,
    long_axes,
    surface_distances,
)
from fedfs.nnunet.score.lesions import count_lesions
from fedfs.nnunet.score.summary import SUMMARY, class_names, class_values, read_summary
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.system.output import capture_output

log = logging.getLogger(__name__)

CASE_SCORES = "case_scores.json"
"""File of the scores of predicted cases, beside nnU-Net's ``summary.json``."""

_MM3_PER_ML = 1000.0
_STAND_IN = 998.0
"""nnU-Net gives the missing axis of an image in two dimensions 999 times the largest spacing."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A case, cut to what is not background, on the axes of more than one voxel.

    Attributes:
        true, predicted: the segmentations.
        probabilities: of each output of the network, first axis; None where they are not there.
        spacing_mm: of each axis; None where files do not tell it.
        voxel_ml: volume of a voxel; None where it has none.
    """

    true: npt.NDArray[np.integer]
    predicted: npt.NDArray[np.integer]
    probabilities: npt.NDArray[np.floating] | None
    spacing_mm: Sequence[float] | None
    voxel_ml: float | None


@dataclass(frozen=True, kw_only=True)
class CaseMetrics:
    """Computes the metrics of cases.

    Attributes:
        dataset_json: with the labels or regions, and the ending of files.
        reader: nnU-Net's reader of these files.
        tolerance_mm: of NSD.
        with_calibration: read the probabilities that nnU-Net saved beside predictions.
    """

    dataset_json: Mapping[str, Any]
    reader: Any
    tolerance_mm: float
    with_calibration: bool = False

    @classmethod
    def of_model(
        cls, model: Any, *, tolerance_mm: float | None, with_calibration: bool
    ) -> CaseMetrics:
        """Return the metrics for what a model predicts.

        Args:
            model: nnU-Net's trainer or predictor, which has its plan.
            tolerance_mm: of NSD; None for one voxel of the plan.
            with_calibration: as above.
        """
        return cls(
            dataset_json=model.dataset_json,
            reader=model.plans_manager.image_reader_writer_class(),
            tolerance_mm=tolerance_mm
            or nsd_tolerance_mm(model.plans_manager, model.configuration_manager),
            with_calibration=with_calibration,
        )

    def of_folder(self, folder: Path, on_progress: OnProgress = lambda _: None) -> EvaluationResult:
        """Return the scores of predictions that nnU-Net has scored; of no duration.

        They are also written, as :data:`CASE_SCORES`, beside nnU-Net's ``summary.json``.

        Args:
            folder: holds the predictions and ``summary.json``, which names the references.
            on_progress: called with the progress.
        """
        by_case, keys = {}, class_names(self.dataset_json)
        cases = read_json(folder / SUMMARY)["metric_per_case"]
        for number, case in enumerate(cases):
            on_progress(Progress("metrics", number + 1, len(cases), "case"))
            prediction = Path(case["prediction_file"])
            found = self.of_case(Path(case["reference_file"]), prediction)
            by_case[self._case_name(prediction)] = {
                name: _defined({"dice": float(case["metrics"][key]["Dice"]), **found[name]})
                for name, key in keys.items()
            }
        files.write_json(folder / CASE_SCORES, by_case)
        result = read_summary(folder / SUMMARY, self.dataset_json, by_case)
        return replace(result, nsd_tolerance_mm=self.tolerance_mm)

    def of_case(self, reference: Path, prediction: Path) -> dict[str, dict[str, float | None]]:
        """Return class -> metric, without Dice; None where it is not defined.

        Args:
            reference: file of the reference.
            prediction: of the prediction, beside which probabilities may lie.
        """
        case = self._read(reference, prediction)
        first = 0 if has_regions(self.dataset_json) else 1  # the first output is the background
        return {
            name: self._of_class(case, values, output)
            for output, (name, values) in enumerate(class_values(self.dataset_json).items(), first)
        }

    def _read(self, reference: Path, prediction: Path) -> _Case:
        with capture_output(log):
            true = self.reader.read_seg(str(reference))[0][0]
            # Its spacing is the image's; nnU-Net copies references of TIFF files without theirs.
            (predicted,), properties = self.reader.read_seg(str(prediction))
        ignored = self.dataset_json["labels"].get("ignore")
        if ignored is not None:
            predicted = np.where(true == ignored, 0, predicted)
            true = np.where(true == ignored, 0, true)
        box = bounding_box((true != 0) | (predicted != 0))
        axes = long_axes(true.shape)
        flat = tuple(slice(None) if axis in axes else 0 for axis in range(true.ndim))
        probabilities = self._probabilities(prediction)
        spacing = [float(mm) for mm in properties["spacing"]] if has_spacing(self.reader) else None
        return _Case(
            true=true[box][flat],
            predicted=predicted[box][flat],
            probabilities=None
            if probabilities is None
            else probabilities[(slice(None), *box)][(slice(None), *flat)],
            spacing_mm=None if spacing is None else [spacing[axis] for axis in axes],
            voxel_ml=None if spacing is None else _voxel_ml(spacing),
        )

    def _probabilities(self, prediction: Path) -> npt.NDArray[np.floating] | None:
        path = prediction.with_name(f"{self._case_name(prediction)}.npz")
        if not self.with_calibration or not path.exists():
            return None
        with np.load(path) as content:
            return np.asarray(content["probabilities"])

    def _case_name(self, file: Path) -> str:
        return file.name.removesuffix(str(self.dataset_json["file_ending"]))

    def _of_class(self, case: _Case, values: Sequence[int], output: int) -> dict[str, float | None]:
        true, predicted = _mask(case.true, values), _mask(case.predicted, values)
        box = bounding_box(true | predicted)
        true, predicted = true[box], predicted[box]
        lesions = count_lesions(true, predicted)
        out: dict[str, float | None] = {
            "f1": lesions.f1,
            "sensitivity": lesions.sensitivity,
            "false_positives": lesions.n_false,
        }
        if case.spacing_mm is not None:
            out |= self._surfaces(true, predicted, case.spacing_mm)
        if case.voxel_ml is not None:
            out["volume_ml"] = case.voxel_ml * int(predicted.sum())
            out["reference_volume_ml"] = case.voxel_ml * int(true.sum())
        if case.probabilities is not None and (true | predicted).any():
            out["calibration_error"] = calibration_error(true, case.probabilities[output][box])
        return out

    def _surfaces(
        self, true: Mask, predicted: Mask, spacing_mm: Sequence[float]
    ) -> dict[str, float | None]:
        found = surface_distances(true, predicted, spacing_mm)
        if found is not None:
            return {"nsd": found.nsd(self.tolerance_mm), "hd95_mm": found.hd95_mm}
        # One surface without another is nowhere near it; where there is none, nothing is defined.
        return {"nsd": 0.0 if true.any() or predicted.any() else None}


def nsd_tolerance_mm(plans_manager: Any, configuration_manager: Any) -> float:
    """Return the tolerance of NSD where a site gives none: one voxel of the plan.

    It is the largest spacing that images of the plan's ``3d_fullres`` are resampled to, so that a
    surface that is one voxel off counts as right in every direction, for all configurations of a
    plan alike; where there is no ``3d_fullres``, of the configuration.

    Args:
        plans_manager: nnU-Net's, of the plan.
        configuration_manager: nnU-Net's, of the configuration.
    """
    if "3d_fullres" in plans_manager.available_configurations:
        configuration_manager = plans_manager.get_configuration("3d_fullres")
    return float(max(configuration_manager.spacing))


def tolerance_of(settings: LearnerSettings, plans: Mapping[str, Any]) -> float:
    """Return the tolerance of NSD at a site with this plan."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    return settings.scores.nsd_tolerance_mm or nsd_tolerance_mm(
        manager, manager.get_configuration(settings.configuration)
    )


def delete_probabilities(folder: Path) -> None:
    """Delete what nnU-Net saved for :attr:`CaseMetrics.with_calibration`."""
    for ending in (".npz", ".pkl"):
        for path in folder.glob(f"*{ending}"):
            path.unlink()


def _mask(segmentation: npt.NDArray[np.integer], values: Sequence[int]) -> Mask:
    mask: Mask = segmentation == values[0]
    for value in values[1:]:
        mask |= segmentation == value
    return mask


def _voxel_ml(spacing_mm: Sequence[float]) -> float | None:
    """Return a voxel's volume; None in an image in two dimensions."""
    if spacing_mm[0] >= _STAND_IN * max(spacing_mm[1:]):
        return None
    return math.prod(spacing_mm) / _MM3_PER_ML


def _defined(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}
