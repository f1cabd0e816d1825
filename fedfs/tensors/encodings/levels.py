"""Quantisation in equal levels: whole multiples of one float32 scale per tensor."""

import math

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.tensors.encodings.base import Delta
from fedfs.tensors.safetensors_layout import AnyArray


def scale_of(values: Delta, n_levels: int) -> np.float32:
    """Return the smallest float32 of which ``n_levels`` reach the largest magnitude in ``values``.

    Rounded up, so that no quotient exceeds ``n_levels`` and errors stay within half a scale.
    """
    largest = float(np.max(np.abs(values), initial=0.0))
    scale = np.float32(largest / n_levels)
    if float(scale) * n_levels < largest:
        scale = np.nextafter(scale, np.float32(math.inf))
    return scale


def to_levels(values: Delta, scale: np.float32) -> npt.NDArray[np.int8]:
    """Return values in units of ``scale``, rounded half to even."""
    if scale == 0:
        return np.zeros(values.shape, dtype=np.int8)
    return np.asarray(np.rint(values / np.float64(scale)).astype(np.int8))


def from_levels(levels: npt.NDArray[np.int8], scale: AnyArray) -> Delta:
    """Return levels times scale, exact in float64.

    Raises:
        TensorError: the scale is negative.
    """
    factor = np.float64(scale[()])
    if factor < 0:
        raise TensorError("has a negative scale")
    return np.asarray(np.multiply(levels, factor, dtype=np.float64))
