"""fixed: deltas as whole multiples of one step that is the same for all, so that levels add up.

The step follows from the charter alone. Levels of several sites, tensors and base versions can be
added as integers, which is exact and in any order the same; masks are added to them modulo 2**32,
see :mod:`fedfs.aggregation.secure_sums`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError, UserError
from fedfs.protocol.ranges import Range, check_options, option
from fedfs.tensors.encodings.base import VALUES, Base, Delta, Lossy
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

BITS = 18
LARGEST = 2**BITS - 1
"""Largest level on either side of 0; times coefficients of less than 2**13 in all it fits int32."""


@dataclass(frozen=True, kw_only=True)
class Fixed(Lossy):
    """4 bytes per value; absolute error at most half a step, which is ``max_change * 2**-19``.

    ``max_change`` is a power of two, so that levels times steps are exact. Where a value changes by
    more in a round, the rest comes later.
    """

    name: ClassVar[str] = "fixed"
    summable: ClassVar[bool] = True
    max_change: float = option(1.0, Range(low=2.0**-20, high=2.0**20, high_is_open=False))

    def __post_init__(self) -> None:
        check_options(self)
        if math.frexp(self.max_change)[0] != 0.5:  # noqa: PLR2004  as of every power of two
            raise UserError(
                f"Option 'max_change' of {type(self).__name__} is {self.max_change:g}.",
                hint="it must be a power of two, for example 0.5, 1 or 2",
            )

    @property
    def step(self) -> float:
        """Change of a value that one level stands for."""
        return float(self.max_change / 2**BITS)

    def n_values(self, shape: Shape) -> int:
        """Return how many values a payload holds of a tensor."""
        return math.prod(shape)

    def place(self, name: str, values: Delta, base: Base) -> Delta:  # noqa: ARG002  others look
        """Return the delta of a whole tensor from the values that a payload holds of it."""
        return values

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return levels."""
        return {VALUES: ("I32", shape)}

    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Round to the nearest level, half to even; cut what is beyond the largest."""
        levels = np.asarray(delta / self.step)
        np.rint(levels, out=levels)
        np.clip(levels, -LARGEST, LARGEST, out=levels)
        return {VALUES: np.asarray(levels.astype(np.int32))}

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:  # noqa: ARG002  the seam has it
        """Return levels times step.

        Raises:
            TensorError: a level beyond the largest, such as those that a mask hides.
        """
        levels: npt.NDArray[np.int32] = parts[VALUES]
        if levels.size and (levels.min() < -LARGEST or levels.max() > LARGEST):
            raise TensorError(f"holds levels beyond {LARGEST}")
        return np.asarray(np.multiply(levels, self.step, dtype=np.float64))
