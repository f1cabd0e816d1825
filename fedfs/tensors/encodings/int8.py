"""int8: deltas in 255 levels, with one scale per tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedfs.errors import TensorError
from fedfs.tensors.encodings.base import SCALE, VALUES, Delta, Lossy
from fedfs.tensors.encodings.levels import from_levels, scale_of, to_levels
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

N_LEVELS = 127


@dataclass(frozen=True)
class Int8(Lossy):
    """1 byte per value; symmetric about 0, the largest magnitude of a tensor is level 127.

    The absolute error is at most half a scale, which is 0.4 % of the tensor's largest delta.
    """

    name: ClassVar[str] = "int8"

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return levels and scale."""
        return {VALUES: ("I8", shape), SCALE: ("F32", ())}

    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Round to the nearest level, half to even."""
        scale = scale_of(delta, N_LEVELS)
        return {VALUES: to_levels(delta, scale), SCALE: np.asarray(scale)}

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:  # noqa: ARG002  the seam has it
        """Return levels times scale.

        Raises:
            TensorError: the level -128, or a negative scale.
        """
        levels = parts[VALUES]
        if (levels < -N_LEVELS).any():
            raise TensorError("holds the level -128, which is not symmetric")
        return from_levels(levels, parts[SCALE])
