"""Orientation of an image on the screen, as radiologists look at it.

Rules:
 * Slices lie across the axis with the widest spacing, as they were acquired; where no spacing is
   clearly the widest, they are axial.
 * The patient's right is on the picture's left, anterior and superior are up.
 * Where the file does not say how the patient lay, the picture is as the file has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ENDS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Letters of the patient's axes, from low to high coordinates (LPS, as in DICOM)."""

_PLANES = {"I": "axial", "A": "coronal", "R": "sagittal"}
_LAYOUTS = {"axial": ("AP", "RL"), "coronal": ("SI", "RL"), "sagittal": ("SI", "AP")}
"""Plane -> letters from top to bottom, and from left to right."""

_WIDEST = 1.2
"""An axis is the one of acquisition if its spacing is wider than the next by this factor."""


@dataclass(frozen=True)
class Display:
    """The way from an image's axes to slices on the screen.

    Attributes:
        axes: of the array that become slices, rows and columns.
        flips: the axes of the result that run the other way.
        plane: ``axial``, ``coronal``, ``sagittal``; "" where it is not known.
        left: letter at the left edge, "" where it is not known.
        top: letter at the upper edge, likewise.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...] = ()
    plane: str = ""
    left: str = ""
    top: str = ""

    def arranged(self, array_ZYX: Array) -> Array:  # noqa: N803  axes are in the name
        """Return a view of the array as slices, rows and columns; slices keep their order."""
        return np.flip(array_ZYX.transpose(self.axes), self.flips)


def display_of(properties: Mapping[str, Any]) -> Display:
    """Return the way to show an image.

    Args:
        properties: as nnU-Net's readers return them.
    """
    spacing_mm = [float(mm) for mm in properties["spacing"]]
    letters = _axis_letters(properties)
    across = int(np.argmax(spacing_mm))
    others = sorted(mm for axis, mm in enumerate(spacing_mm) if axis != across)
    if spacing_mm[across] < _WIDEST * others[-1]:
        across = next((a for a, pair in enumerate(letters) if "S" in pair), 0)
    first, second = (axis for axis in range(3) if axis != across)
    if not letters:
        return Display((across, first, second))
    plane = next(_PLANES[letter] for letter in letters[across] if letter in _PLANES)
    rows, columns = _LAYOUTS[plane]
    if set(letters[first]) != set(rows):
        first, second = second, first
    flips = tuple(
        number
        for number, (axis, wanted) in enumerate(((first, rows), (second, columns)), start=1)
        if letters[axis] != tuple(wanted)
    )
    return Display((across, first, second), flips, plane, left=columns[0], top=rows[0])


def _axis_letters(properties: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return the letters at the beginning and end of each array axis; () if they are not known."""
    vectors_LPS = _axis_vectors(properties)  # noqa: N806  axes are in the name
    if vectors_LPS is None:
        return ()
    main = [int(np.argmax(np.abs(vector))) for vector in vectors_LPS]
    if sorted(main) != [0, 1, 2]:
        return ()
    return [
        _ENDS[axis] if vector[axis] > 0 else (_ENDS[axis][1], _ENDS[axis][0])
        for axis, vector in zip(main, vectors_LPS, strict=True)
    ]


def _axis_vectors(properties: Mapping[str, Any]) -> Array | None:
    """Return the direction of each array axis (Z, Y, X) in the patient's coordinates (LPS)."""
    direction = properties.get("sitk_stuff", {}).get("direction", ())
    if len(direction) == 9:  # noqa: PLR2004  a 3 x 3 matrix, whose columns are the axes X, Y, Z
        return np.array(direction, dtype=float).reshape(3, 3).T[::-1]
    stuff = properties.get("nibabel_stuff", {})
    affine = stuff.get("reoriented_affine", stuff.get("original_affine"))
    if affine is None:
        return None
    vectors_RAS = np.asarray(affine, dtype=float)[:3, :3].T[::-1]  # noqa: N806  same
    return vectors_RAS * [-1, -1, 1]
