"""Values as 2 bits: a sign and one of two magnitudes, which a tensor has for all of them.

The magnitudes are the means of the smaller and of the larger half of the values, so that each is
passed on at about its size whatever the largest of them is. Sums are exact before they are rounded,
the same on every host.
"""

import math

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.learner import Array
from fedfs.tensors.encodings.base import Delta
from fedfs.tensors.safetensors_layout import AnyArray

BITS = 2
_NEGATIVE, _LARGER = 2, 1


def to_codes(values: Delta) -> tuple[npt.NDArray[np.uint8], Array]:
    """Return the code of each value, and the smaller and the larger magnitude, float32.

    A code has the bit 2 where the value is negative, and the bit 1 where it is nearer to the larger
    magnitude.
    """
    sizes = np.abs(values)
    ordered = np.sort(sizes)
    half = (len(ordered) + 1) // 2
    pair = np.array([_mean(ordered[:half]), _mean(ordered[half:])], dtype=np.float32)
    pair = np.maximum(pair, pair[0])  # of one value there is no larger half
    middle = (np.float64(pair[0]) + np.float64(pair[1])) / 2
    codes = _NEGATIVE * (values < 0) + _LARGER * (sizes > middle)
    return codes.astype(np.uint8), pair


def from_codes(codes: npt.NDArray[np.int64], pair: AnyArray) -> Delta:
    """Return the values that :func:`to_codes` stands for, exact in float64.

    Raises:
        TensorError: a magnitude is negative, or they do not ascend.
    """
    if not 0 <= pair[0] <= pair[1]:
        raise TensorError("has magnitudes that are negative or do not ascend")
    sizes = pair.astype(np.float64)[codes & _LARGER]
    return np.asarray(np.where(codes & _NEGATIVE, -sizes, sizes))


def _mean(sizes: Delta) -> float:
    return math.fsum(sizes.tolist()) / len(sizes) if len(sizes) else 0.0
