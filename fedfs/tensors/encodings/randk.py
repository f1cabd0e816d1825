"""randk: the levels of some values of every tensor, at positions that all sites draw alike.

The positions are public, so that levels of sites can be added where they are, and no index travels.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedfs.learner import Array
from fedfs.protocol import codec
from fedfs.protocol.ranges import Range, option
from fedfs.tensors.encodings.base import Base, Delta, Encoded, delta_of, part_name
from fedfs.tensors.encodings.fixed import Fixed
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape

LAYER = 1_769_472
"""Values of a convolution from 256 to 256 channels, of which ``fraction`` travels.

Of a smaller tensor a larger part does, as the square root says: about as many values of each
channel, which in small layers are a larger part of it.
"""

_SEED_BYTES = 16
_HALF = np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class RandK(Fixed):
    """Levels like those of ``fixed`` for ``ceil(fraction * sqrt(n * LAYER))`` of n values.

    A site trains these values alone, and leaves the others as they are (see
    :class:`fedfs.learner.PartialTraining`), so that nothing waits to be sent later: what waits is
    formed again in every round, and is too much once it arrives. Source: Yang et al. 2021
    (arXiv:2110.05607), by layers instead of values.

    Other positions are chosen with every version. A tensor that no site moves keeps its positions,
    but what is left of it at these positions adds up until it moves.
    """

    name: ClassVar[str] = "randk"
    elementwise: ClassVar[bool] = False
    fraction: float = option(0.05, Range(low=0, high=1, low_is_open=True))

    def n_values(self, shape: Shape) -> int:
        """Return how many values a payload holds of a tensor."""
        return n_positions(math.prod(shape), self.fraction)

    def positions(self, name: str, base: Base) -> npt.NDArray[np.int64]:
        """See :func:`positions`."""
        return positions(name, base, self.fraction)

    def place(self, name: str, values: Delta, base: Base) -> Delta:
        """Return the values in place, zero elsewhere."""
        delta = np.zeros(base.size, dtype=np.float64)
        delta[self.positions(name, base)] = values
        return delta.reshape(base.shape)

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return levels."""
        return super().parts((self.n_values(shape),))

    def encode(
        self, name: str, trained: Array, base: Array, residual: Array | None = None
    ) -> Encoded:
        """Encode some values of ``trained - base + residual``, and leave the others."""
        delta = delta_of(name, trained, base, residual)
        flat, positions = delta.reshape(-1), self.positions(name, base)
        parts = self.quantise(flat[positions])
        flat[positions] -= self.dequantise(parts, positions.shape)
        payload = {part_name(name, part): array for part, array in parts.items()}
        return Encoded(payload, flat.reshape(delta.shape).astype(np.float32))

    def _decode(
        self, name: str, payload: Mapping[str, AnyArray], base: Base, *, finite: bool = True
    ) -> Delta:
        return self.place(name, super()._decode(name, payload, base, finite=finite), base)


def n_positions(n: int, fraction: float) -> int:
    """Return how many of ``n`` values travel, all of them if n is small."""
    return min(n, math.ceil(fraction * math.sqrt(n * LAYER)))


def positions(name: str, base: Base, fraction: float) -> npt.NDArray[np.int64]:
    """Return the ascending positions, in C order, of the values that travel.

    They follow from the tensor's name and the bits of its base: all sites that train from one
    version choose the same. The tensor is cut into as many stretches as there are positions, whose
    lengths differ by one at most, and each has one position. Only the raw 64-bit numbers of PCG64
    are used, which are the same with every version of numpy.

    Args:
        name: canonical name of the tensor.
        base: its values in the version, of any shape.
        fraction: as of :class:`RandK`.
    """
    values = np.asarray(base, dtype="<f4", order="C")
    digest = hashlib.sha256(codec.dumps(name) + b"\n")
    digest.update(values.reshape(-1).view(np.uint8).data)
    generator = np.random.PCG64(int.from_bytes(digest.digest()[:_SEED_BYTES], "little"))
    n, k = values.size, n_positions(values.size, fraction)
    ends = np.arange(k + 1, dtype=np.int64) * n // max(k, 1)
    lengths = np.diff(ends).astype(np.uint64)
    raw = np.asarray(generator.random_raw(k), dtype=np.uint64) >> _HALF
    return ends[:-1] + (raw * lengths >> _HALF).astype(np.int64)


def is_sent(name: str, base: Base, fraction: float) -> npt.NDArray[np.bool_]:
    """Return, for each value of a tensor, whether it travels; see :func:`positions`."""
    sent = np.zeros(base.size, dtype=bool)
    sent[positions(name, base, fraction)] = True
    return sent.reshape(base.shape)
