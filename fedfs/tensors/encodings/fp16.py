"""fp16: deltas in IEEE half precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedfs.tensors.encodings.base import VALUES, Delta, Lossy
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

LARGEST = 65504.0


@dataclass(frozen=True)
class Fp16(Lossy):
    """2 bytes per value; relative error 2**-11 above 6e-5 in magnitude, absolute 2**-25 below.

    Larger deltas than 65504, which no training makes, are cut there and the rest comes later.
    """

    name: ClassVar[str] = "fp16"

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return the values."""
        return {VALUES: ("F16", shape)}

    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Round to nearest, ties to even."""
        return {VALUES: np.asarray(np.clip(delta, -LARGEST, LARGEST).astype(np.float16))}

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:  # noqa: ARG002  the seam has it
        """Widen, which is exact."""
        return np.asarray(parts[VALUES].astype(np.float64))
