"""Distances between the surfaces of a reference and a prediction, in millimetres.

HD95 is the larger of the two directed 95th percentiles of surface distances (Huttenlocher et al.
1993; as in Maier-Hein et al., "Metrics reloaded", 2024). NSD is the share of both surfaces that is
within a tolerance of the other one (Nikolov et al. 2021). Surface voxels are those of the mask with
a face towards the background; edges of the image count as background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_PERCENTILE = 95
_WITHOUT_SPACING = ("NaturalImage2DIO",)
"""Readers of images that do not say how large a pixel is."""
_ROUNDING = 1e-6
"""Part of a tolerance by which distances may be off in float64."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of each surface voxel to the other surface, in mm.

    Attributes:
        of_reference: for each surface voxel of the reference.
        of_prediction: of the prediction.
    """

    of_reference: npt.NDArray[np.float64]
    of_prediction: npt.NDArray[np.float64]

    @property
    def hd95_mm(self) -> float:
        """95th percentile Hausdorff distance."""
        both = self.of_reference, self.of_prediction
        return max(float(np.percentile(distances, _PERCENTILE)) for distances in both)

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of surface voxels that are within the tolerance of the other surface."""
        both = np.concatenate([self.of_reference, self.of_prediction])
        return float(np.mean(both <= tolerance_mm * (1 + _ROUNDING)))


def surface_distances(
    reference_ZYX: Mask,  # noqa: N803  axes are in the names
    prediction_ZYX: Mask,  # noqa: N803  same
    spacing_mm: Sequence[float],
) -> SurfaceDistances | None:
    """Return the distances between two surfaces; None where one of the masks is empty.

    Args:
        reference_ZYX: true inside, of any number of axes; best cut to what is inside.
        prediction_ZYX: of the same shape.
        spacing_mm: of each axis.
    """
    if not reference_ZYX.any() or not prediction_ZYX.any():
        return None
    from scipy import ndimage

    surfaces = []
    for mask in (reference_ZYX, prediction_ZYX):
        padded = np.pad(mask, 1)
        surfaces.append(padded & ~ndimage.binary_erosion(padded))
    directed = []
    for one, other in (surfaces, surfaces[::-1]):
        distances = ndimage.distance_transform_edt(~other, sampling=spacing_mm)
        directed.append(distances[one])
    return SurfaceDistances(*directed)


def hd95_mm(reference_ZYX: Mask, prediction_ZYX: Mask, spacing_mm: Sequence[float]) -> float | None:  # noqa: N803  axes are in the names
    """Return the 95th percentile Hausdorff distance; None where one of the masks is empty.

    Args:
        reference_ZYX: true inside, of any number of axes.
        prediction_ZYX: of the same shape.
        spacing_mm: of each axis.
    """
    box = bounding_box(reference_ZYX | prediction_ZYX)
    found = surface_distances(reference_ZYX[box], prediction_ZYX[box], spacing_mm)
    return None if found is None else found.hd95_mm


def long_axes(shape: Sequence[int]) -> list[int]:
    """Return the axes of more than one voxel: the surface in an image of one slice is a line."""
    return [axis for axis, length in enumerate(shape) if length > 1] or [len(shape) - 1]


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask; one voxel if it is empty."""
    box = [slice(0, 1)] * mask.ndim
    if mask.any():
        box = [slice(None)] * mask.ndim
        for axis in range(mask.ndim):  # each time, less is left to look at
            others = tuple(other for other in range(mask.ndim) if other != axis)
            inside = np.flatnonzero(mask[tuple(box)].any(axis=others))
            box[axis] = slice(int(inside[0]), int(inside[-1]) + 1)
    return tuple(box)


def has_spacing(reader: Any) -> bool:
    """Return whether nnU-Net's reader knows how large the pixels of its files are."""
    return type(reader).__name__ not in _WITHOUT_SPACING
