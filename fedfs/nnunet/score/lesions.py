"""Lesions that a prediction finds, misses and makes up.

A lesion is a connected component of a class: voxels that touch with a face, an edge or a corner.
One of the reference is found if at least one of its voxels is predicted; one of the prediction is
a false positive if none of its voxels is in the reference. So count the evaluations of ISLES'22
(Hernandez Petzsche et al., "ISLES 2022", Scientific Data 9:762, 2022).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedfs.nnunet.score.distances import Mask


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of a class in a case.

    Attributes:
        n_reference: in the reference.
        n_found: of these, found by the prediction.
        n_false: in the prediction only.
    """

    n_reference: int
    n_found: int
    n_false: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's lesions that were found; None if it has none."""
        return self.n_found / self.n_reference if self.n_reference else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of what was found and what is true; None if there is no lesion at all."""
        n_wrong = self.n_reference - self.n_found + self.n_false
        total = 2 * self.n_found + n_wrong
        return 2 * self.n_found / total if total else None


def count_lesions(reference: Mask, prediction: Mask) -> LesionCounts:
    """Count the lesions of one class.

    Args:
        reference: true inside, of at most three axes.
        prediction: of the same shape.
    """
    n_reference, n_found = _components(reference, prediction)
    n_predicted, n_true = _components(prediction, reference)
    return LesionCounts(n_reference, n_found, n_predicted - n_true)


def _components(mask: Mask, other: Mask) -> tuple[int, int]:
    """Return how many components a mask has, and how many of them touch the other one."""
    import cc3d

    corners: Literal[8, 26] = 26 if mask.ndim == 3 else 8  # noqa: PLR2004  axes
    labelled, n = cc3d.connected_components(
        np.atleast_2d(mask).astype(np.uint8), connectivity=corners, return_N=True
    )
    return int(n), np.unique(labelled[np.atleast_2d(mask & other)]).size
