"""Calibration of predicted probabilities.

The expected calibration error (Naeini et al. 2015; Guo et al. 2017) of one class in one case: the
voxels in the smallest box that holds reference and prediction of the class are put into
:data:`N_BINS` bins of equal width by their probability of the class; it is the mean over these
voxels of the difference, in their bin, between mean probability and share of the class. Voxels
outside of the box are almost all background that is certain, and would hide what is to be seen.
"""

import numpy as np
import numpy.typing as npt

from fedfs.nnunet.score.distances import Mask

N_BINS = 10


def calibration_error(reference: Mask, probabilities: npt.NDArray[np.floating]) -> float | None:
    """Return the expected calibration error; None without voxels.

    Args:
        reference: true inside, of any shape.
        probabilities: of the class, of the same shape, from 0 to 1.
    """
    p, is_class = probabilities.ravel().astype(np.float64), reference.ravel()
    if not p.size:
        return None
    bins = np.minimum((p * N_BINS).astype(np.intp), N_BINS - 1)
    predicted = np.bincount(bins, weights=p, minlength=N_BINS)
    true = np.bincount(bins, weights=is_class, minlength=N_BINS)
    return float(np.abs(predicted - true).sum() / p.size)
