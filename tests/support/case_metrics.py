"""Cases with a reference and a prediction, and the metrics that other people's code gives them.

Run as a script where MONAI (1.6 or newer), MetricsReloaded and the evaluation of ISLES'22 are
installed, which needs nothing of fedfs, it writes ``tests/golden/case_metrics.json``::

    python -m venv metrics
    metrics/bin/pip install monai connected-components-3d scikit-image pandas
    git clone https://github.com/Project-MONAI/MetricsReloaded
    git clone https://github.com/ezequieldlrosa/isles22
    PYTHONPATH=MetricsReloaded:isles22/utils metrics/bin/python tests/support/case_metrics.py

``tests/golden/test_case_metrics.py`` compares the metrics of fedfs with that file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

GOLDEN = Path(__file__).parents[1] / "golden" / "case_metrics.json"
N_BINS = 10


@dataclass(frozen=True)
class MadeUpCase:
    """Balls in a box.

    Attributes:
        shape: of the image.
        spacing_mm: of each axis.
        tolerance_mm: of NSD; no distance between two voxels, which rounding could move over it.
        reference: centre in voxels and radius in mm of each ball of the reference.
        prediction: of the prediction.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    tolerance_mm: float
    reference: Sequence[tuple[tuple[float, ...], float]]
    prediction: Sequence[tuple[tuple[float, ...], float]]

    def masks(self) -> tuple[Mask, Mask]:
        """Return reference and prediction."""
        return self._mask(self.reference), self._mask(self.prediction)

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return probabilities that fall with the distance to the prediction's balls."""
        return np.asarray(1 / (1 + np.exp(-self._depth(self.prediction) / 3)))

    def _mask(self, balls: Sequence[tuple[tuple[float, ...], float]]) -> Mask:
        return self._depth(balls) >= 0 if balls else np.zeros(self.shape, bool)

    def _depth(self, balls: Sequence[tuple[tuple[float, ...], float]]) -> npt.NDArray[np.float64]:
        grid = np.indices(self.shape).astype(float)
        depths = []
        for centre, radius in balls:
            parts = zip(grid, centre, self.spacing_mm, strict=True)
            depths.append(radius - np.sqrt(sum(((axis - c) * mm) ** 2 for axis, c, mm in parts)))
        return np.asarray(np.max(depths, axis=0) if depths else np.full(self.shape, -np.inf))


CASES: Mapping[str, MadeUpCase] = {
    "shifted": MadeUpCase(
        (20, 24, 22), (1.0, 1.0, 1.0), 1.2, [((9, 11, 10), 6.3)], [((10, 12, 11), 5.7)]
    ),
    "thick slices": MadeUpCase(
        (9, 40, 38), (4.0, 0.8, 0.7), 0.9, [((4, 19, 18), 11.1)], [((5, 21, 18), 10.3)]
    ),
    "at the edge of the image": MadeUpCase(
        (12, 16, 16), (1.5, 1.0, 1.0), 1.3, [((0, 7, 8), 5.2)], [((1, 8, 8), 5.9)]
    ),
    "several lesions": MadeUpCase(
        (24, 30, 30),
        (1.0, 1.0, 1.0),
        1.1,
        [((4, 5, 5), 2.4), ((12, 15, 15), 3.3), ((20, 25, 6), 2.2), ((12, 20, 25), 1.2)],
        [((5, 5, 6), 2.2), ((12, 14, 15), 3.6), ((4, 25, 25), 2.3), ((19, 5, 24), 1.4)],
    ),
    "lesions that touch with a corner": MadeUpCase(
        (8, 8, 8), (1.0, 1.0, 1.0), 0.7, [((2, 2, 2), 0.5), ((3, 3, 3), 0.5)], [((2, 2, 2), 0.5)]
    ),
    "nothing in common": MadeUpCase(
        (10, 20, 20), (2.0, 1.0, 1.0), 2.3, [((5, 5, 5), 3.3)], [((5, 15, 15), 3.3)]
    ),
    "missed": MadeUpCase((10, 12, 12), (1.0, 1.0, 1.0), 1.2, [((5, 6, 6), 3.2)], []),
    "made up": MadeUpCase((10, 12, 12), (1.0, 1.0, 1.0), 1.2, [], [((5, 6, 6), 3.2)]),
    "in two dimensions": MadeUpCase(
        (40, 36), (0.6, 0.9), 0.8, [((19, 17), 7.1), ((34, 30), 2.1)], [((21, 18), 6.6)]
    ),
}
"""A name -> a case."""


def by_monai(case: MadeUpCase) -> dict[str, float]:
    """Return HD95, NSD and calibration error by MONAI."""
    torch, metrics = import_module("torch"), import_module("monai.metrics")

    def batch(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]

    reference, prediction = case.masks()
    pair = {"y_pred": batch(prediction), "y": batch(reference), "include_background": True}
    spacing = list(case.spacing_mm)
    box = tuple(
        slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(reference | prediction)
    )
    calibration = metrics.CalibrationErrorMetric(num_bins=N_BINS, calibration_reduction="expected")
    calibration(y_pred=batch(case.probabilities()[box]), y=batch(reference[box]))
    return {
        "hd95_mm": float(
            metrics.compute_hausdorff_distance(**pair, percentile=95, spacing=spacing)
        ),
        "nsd": float(
            metrics.compute_surface_dice(
                **pair, class_thresholds=[case.tolerance_mm], spacing=spacing
            )
        ),
        "calibration_error": float(calibration.aggregate()),
    }


def by_metrics_reloaded(case: MadeUpCase) -> dict[str, float]:
    """Return HD95 and NSD by MetricsReloaded."""
    theirs = import_module("MetricsReloaded.metrics.pairwise_measures")
    reference, prediction = (mask.astype(int) for mask in case.masks())
    measures = theirs.BinaryPairwiseMeasures(
        prediction,
        reference,
        pixdim=list(case.spacing_mm),
        dict_args={"nsd": case.tolerance_mm, "hd_perc": 95},
    )
    if not reference.any() or not prediction.any():
        return {}  # theirs are conventions for means
    return {
        "hd95_mm": float(measures.measured_hausdorff_distance_perc()),
        "nsd": float(measures.normalised_surface_distance()),
    }


def by_isles(case: MadeUpCase) -> dict[str, float]:
    """Return F1 of lesions by the evaluation of ISLES'22, which is for three dimensions."""
    theirs = import_module("eval_utils")
    masks = (mask.reshape((1, *case.shape)[-3:]) for mask in case.masks())
    return {"f1": float(theirs.compute_lesion_f1_score(*masks))}


def main() -> None:
    """Write the golden file."""
    sources = {"monai": by_monai, "metrics_reloaded": by_metrics_reloaded, "isles22": by_isles}
    made = {
        name: {
            source: {
                metric: float(f"{value:.7g}")
                for metric, value in compute(case).items()
                if np.isfinite(value)
            }
            for source, compute in sources.items()
        }
        for name, case in CASES.items()
    }
    content = {"monai": metadata.version("monai"), "values": made}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
