"""bf16: deltas in bfloat16, the upper half of a float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedfs.errors import TensorError
from fedfs.tensors.encodings.base import VALUES, Delta, Lossy
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

LARGEST = (2 - 2**-7) * 2.0**127


@dataclass(frozen=True)
class Bf16(Lossy):
    """2 bytes per value; relative error 2**-8 over the whole range of float32.

    fp16 is eight times more exact for deltas above 6e-5, but knows nothing below 3e-8.
    """

    name: ClassVar[str] = "bf16"

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return the values."""
        return {VALUES: ("BF16", shape)}

    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Round to float32, then to its upper half: to nearest, ties to even."""
        values = np.atleast_1d(np.clip(delta, -LARGEST, LARGEST)).astype(np.float32)
        bits = values.view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
        return {VALUES: rounded.view(np.float32).reshape(delta.shape)}

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:  # noqa: ARG002  the seam has it
        """Widen, which is exact.

        Raises:
            TensorError: values that bfloat16 cannot hold.
        """
        values = np.ascontiguousarray(parts[VALUES])
        if (values.view(np.uint32) & np.uint32(0xFFFF)).any():
            raise TensorError("holds values that bfloat16 cannot hold")
        return np.asarray(parts[VALUES].astype(np.float64))
