"""Distances between surfaces of a reference and a prediction, in millimetres.

HD95 is the larger of the two directed 95th percentiles of surface distances (Huttenlocher et al.
1993; as in Maier-Hein et al., "Metrics reloaded", 2024). Surface voxels are those of the mask with
a face towards the background; edges of the image count as background.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.system.output import capture_output

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]

_PERCENTILE = 95
_WITHOUT_SPACING = ("NaturalImage2DIO",)
"""Readers of images that do not say how large a pixel is."""


def hd95_mm(reference_ZYX: Mask, prediction_ZYX: Mask, spacing_mm: Sequence[float]) -> float | None:  # noqa: N803  axes are in the names
    """Return the 95th percentile Hausdorff distance; None where one of the masks is empty.

    Args:
        reference_ZYX: true inside, of any number of axes.
        prediction_ZYX: of the same shape.
        spacing_mm: of each axis.
    """
    if not reference_ZYX.any() or not prediction_ZYX.any():
        return None
    from scipy import ndimage

    box = ndimage.find_objects((reference_ZYX | prediction_ZYX).astype(np.uint8))[0]
    surfaces = []
    for mask in (reference_ZYX[box], prediction_ZYX[box]):
        padded = np.pad(mask, 1)
        surfaces.append(padded & ~ndimage.binary_erosion(padded))
    directed = []
    for one, other in (surfaces, surfaces[::-1]):
        distances = ndimage.distance_transform_edt(~other, sampling=spacing_mm)
        directed.append(float(np.percentile(distances[one], _PERCENTILE)))
    return max(directed)


def has_spacing(reader: Any) -> bool:
    """Return whether nnU-Net's reader knows how large the pixels of its files are."""
    return type(reader).__name__ not in _WITHOUT_SPACING


def mean_by_class(by_case: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return class -> mean over the cases in which it is defined."""
    found: dict[str, list[float]] = {}
    for distances in by_case.values():
        for name, distance in distances.items():
            found.setdefault(name, []).append(distance)
    return {name: float(np.mean(values)) for name, values in found.items()}


def hd95_by_case(
    summary: Path,
    labels: Mapping[str, Sequence[int]],
    reader: Any,
    on_progress: OnProgress = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Return name of a case's reference file -> class -> HD95 in mm, where it is defined.

    Args:
        summary: nnU-Net's ``summary.json``, which names predictions and references.
        labels: class -> the values in a segmentation that belong to it.
        reader: nnU-Net's reader of these files.
        on_progress: called with the progress.
    """
    if not has_spacing(reader):
        return {}
    out = {}
    cases = json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]
    for number, case in enumerate(cases):
        on_progress(Progress("distances", number + 1, len(cases), "case"))
        with capture_output(log):
            reference, _ = reader.read_seg(str(case["reference_file"]))
            # Its spacing is the image's; nnU-Net copies references of TIFF files without theirs.
            prediction, properties = reader.read_seg(str(case["prediction_file"]))
        spacing = [float(mm) for mm in properties["spacing"]]
        found = {
            name: hd95_mm(np.isin(reference[0], values), np.isin(prediction[0], values), spacing)
            for name, values in labels.items()
        }
        out[Path(case["reference_file"]).name] = {
            name: mm for name, mm in found.items() if mm is not None and math.isfinite(mm)
        }
    return out
