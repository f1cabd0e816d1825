"""Exponential average of versions: the last ones count most, and version 0 for nothing.

After version *v* the average is the mean of versions 1 to *v* with weights ``decay ** (v - i)``. It
is moved from version to version, as Adam's moments are with their correction (Kingma and Ba 2015,
arXiv:1412.6980): version 1 is its own average.

The same versions give the same bits on every host: float64, only additions, multiplications and one
division, and one rounding to float32.
"""

import numpy as np

from fedfs.learner import Array


def weight_of(version: int, decay: float) -> float:
    """Return the weight with which a version goes into the average up to it; 1 of version 1.

    Args:
        version: its number, at least 1.
        decay: at least 0 and below 1.

    >>> weight_of(1, 0.9), round(weight_of(100, 0.9), 6)
    (1.0, 0.100003)
    """
    total = 0.0
    for _ in range(version):
        total = 1.0 + decay * total
    return 1.0 / total


def moved(before: Array, values: Array, weight: float) -> Array:
    """Return an average once a version went into it; shapes are equal, float32."""
    old = before.astype(np.float64)
    return np.asarray(old + weight * (values - old), dtype=np.float32)
