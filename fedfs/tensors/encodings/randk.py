"""randk: the levels of some values of every tensor, at positions that all sites draw alike.

Source: Wangni et al. 2017 (arXiv:1710.09854) and Stich et al. 2018 (arXiv:1809.07599) for random
positions with error feedback. The positions are public, so that levels of sites can be added where
they are, and no index travels.
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

_SEED_BYTES = 16
_HALF = np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class RandK(Fixed):
    """``ceil(fraction * n)`` values of each tensor of n, as levels like those of ``fixed``.

    The positions follow from the tensor's name and the bits of its base: all sites that train from
    one version choose the same, and other ones from the next version. A tensor that no site moves
    keeps its positions, but what is left of it at these positions adds up until it moves.
    """

    name: ClassVar[str] = "randk"
    elementwise: ClassVar[bool] = False
    fraction: float = option(0.05, Range(low=0, high=1, low_is_open=True))

    def n_values(self, shape: Shape) -> int:
        """Return how many values a payload holds of a tensor."""
        n = math.prod(shape)
        return min(n, math.ceil(self.fraction * n))

    def positions(self, name: str, base: Base) -> npt.NDArray[np.int64]:
        """Return the ascending positions, in C order, of the values that a payload holds.

        The tensor is cut into as many stretches as there are positions, whose lengths differ by one
        at most, and each has one position. Only the raw 64-bit numbers of PCG64 are used, which are
        the same with every version of numpy.
        """
        values = np.asarray(base, dtype="<f4", order="C")
        digest = hashlib.sha256(codec.dumps(name) + b"\n")
        digest.update(values.reshape(-1).view(np.uint8).data)
        generator = np.random.PCG64(int.from_bytes(digest.digest()[:_SEED_BYTES], "little"))
        n, k = values.size, self.n_values(values.shape)
        ends = np.arange(k + 1, dtype=np.int64) * n // max(k, 1)
        lengths = np.diff(ends).astype(np.uint64)
        raw = np.asarray(generator.random_raw(k), dtype=np.uint64) >> _HALF
        return ends[:-1] + (raw * lengths >> _HALF).astype(np.int64)

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
