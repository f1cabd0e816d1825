"""The weighted sum of several updates, as the aggregator has it once the masks are gone.

It is read like an update, but is in no charter, as no site writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedfs.errors import TensorError
from fedfs.protocol.sum_rules import MAX_TOTAL
from fedfs.tensors.encodings.base import VALUES, Base, Delta, Deltas
from fedfs.tensors.encodings.fixed import LARGEST, Fixed
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

TOTAL = "total"


@dataclass(frozen=True)
class SummedLevels(Deltas):
    """Sum of levels times coefficients, and the sum of the coefficients, of each tensor.

    Attributes:
        encoding: of the updates, one that is summable.
    """

    name: ClassVar[str] = "summed"
    encoding: Fixed

    @property
    def elementwise(self) -> bool:
        """True where ``decode`` also takes matching slices of payload and base."""
        return self.encoding.elementwise

    @property
    def step(self) -> float:
        """Change of a value that one level stands for."""
        return self.encoding.step

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return sum of levels and total of coefficients."""
        return {**self.encoding.parts(shape), TOTAL: ("I32", ())}

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:  # noqa: ARG002  the seam has it
        """Return the mean of the payloads' values, weighted with their coefficients.

        Raises:
            TensorError: sum or total cannot be of updates.
        """
        levels, total = parts[VALUES], int(parts[TOTAL][()])
        if not 1 <= total <= MAX_TOTAL:
            raise TensorError(f"has coefficients that add up to {total}")
        check_sum(levels, total)
        mean = np.multiply(levels, self.encoding.step, dtype=np.float64)
        mean /= total
        return np.asarray(mean)

    def _decode(
        self, name: str, payload: Mapping[str, AnyArray], base: Base, *, finite: bool = True
    ) -> Delta:
        values = super()._decode(name, payload, base, finite=finite)
        return self.encoding.place(name, values, base)


def check_sum(levels: AnyArray, total: int) -> None:
    """Check that levels can be those of updates with coefficients that add up to ``total``.

    Raises:
        TensorError: they are too large.
    """
    bound = total * LARGEST
    if levels.size and (levels.min() < -bound or levels.max() > bound):
        raise TensorError(f"holds sums of levels beyond {bound}")
