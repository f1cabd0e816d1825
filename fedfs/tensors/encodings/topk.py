"""topk: the largest deltas of every tensor, quantised, and where they are.

Source: Aji and Heafield 2017 (arXiv:1704.05021) for keeping the largest; Elias 1974 and Fano 1971
for ascending indices in about ``2 + log2(n / k)`` bits each, the size known from n and k alone;
Sarfi et al. 2025 (SparseLoCo, arXiv:2508.15706) for 2 bits and for residuals that decay.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.learner import Array
from fedfs.protocol.ranges import Range, check_options, option
from fedfs.tensors.encodings import bits as bitstream
from fedfs.tensors.encodings import magnitudes
from fedfs.tensors.encodings.base import INDICES, SCALE, VALUES, Delta, Encoded, Lossy
from fedfs.tensors.encodings.levels import from_levels, scale_of, to_levels
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape


@dataclass(frozen=True, kw_only=True)
class TopK(Lossy):
    """``ceil(fraction * n)`` values of each tensor of n, in ``2**bits - 1`` levels.

    What is not kept comes later, by error feedback; of equal magnitudes the first is kept.

    A level is stored as an unsigned number, ``level + 2**(bits - 1) - 1``. With 2 bits there are no
    such levels, as none of what is kept is near 0: a value is its sign and one of two magnitudes,
    see :mod:`fedfs.tensors.encodings.magnitudes`.

    What is left counts ``decay`` times as much in the next round. Below 1 it is lost bit by bit,
    which keeps old directions from being followed late.
    """

    name: ClassVar[str] = "topk"
    elementwise: ClassVar[bool] = False
    fraction: float = option(0.05, Range(low=0, high=1, low_is_open=True))
    bits: float = option(8, Range(low=2, high=9, whole=True))
    decay: float = option(1.0, Range(low=0, high=1, low_is_open=True, high_is_open=False))

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def n_levels(self) -> int:
        """Levels on either side of 0."""
        return int(2 ** (int(self.bits) - 1)) - 1

    def n_kept(self, n: int) -> int:
        """Return how many of ``n`` values are sent."""
        return min(n, math.ceil(self.fraction * n))

    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return indices, levels and scale."""
        n = math.prod(shape)
        k = self.n_kept(n)
        return {
            INDICES: ("U8", (bitstream.indices_bytes(n, k),)),
            VALUES: ("U8", (bitstream.packed_bytes(k, int(self.bits)),)),
            SCALE: ("F32", (2,) if self.bits == magnitudes.BITS else ()),
        }

    def encode(
        self, name: str, trained: Array, base: Array, residual: Array | None = None
    ) -> Encoded:
        """Encode ``trained - base + decay * residual``."""
        if residual is not None and self.decay < 1:
            residual = np.asarray(residual * np.float32(self.decay))
        return super().encode(name, trained, base, residual)

    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Select and round."""
        flat = delta.reshape(-1)
        indices = _largest(flat, self.n_kept(flat.size))
        kept = flat[indices]
        if self.bits == magnitudes.BITS:
            codes, pair = magnitudes.to_codes(kept)
            return {
                INDICES: bitstream.pack_indices(indices, flat.size),
                VALUES: bitstream.pack(codes, magnitudes.BITS),
                SCALE: pair,
            }
        scale = scale_of(kept, self.n_levels)
        levels = to_levels(kept, scale).astype(np.int64) + self.n_levels
        return {
            INDICES: bitstream.pack_indices(indices, flat.size),
            VALUES: bitstream.pack(levels, int(self.bits)),
            SCALE: np.asarray(scale),
        }

    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:
        """Return the selected values in place, zero elsewhere.

        Raises:
            TensorError: indices that are out of range, not ascending or not so many; an unused
                level; a negative scale, or magnitudes that do not ascend.
        """
        n = math.prod(shape)
        k = self.n_kept(n)
        delta = np.zeros(n, dtype=np.float64)
        indices = bitstream.unpack_indices(parts[INDICES], n, k)
        if self.bits == magnitudes.BITS:
            codes = bitstream.unpack(parts[VALUES], k, magnitudes.BITS)
            delta[indices] = magnitudes.from_codes(codes, parts[SCALE])
            return delta.reshape(shape)
        levels = bitstream.unpack(parts[VALUES], k, int(self.bits)) - self.n_levels
        if (levels > self.n_levels).any():
            raise TensorError("holds a level that is not symmetric")
        delta[indices] = from_levels(levels.astype(np.int8), parts[SCALE])
        return delta.reshape(shape)


def _largest(flat: Delta, k: int) -> npt.NDArray[np.intp]:
    """Return the ascending indices of the ``k`` largest magnitudes, the first of equal ones.

    Through the k-th magnitude: which of equal values a selection returns depends on numpy's build.
    """
    if k == flat.size:
        return np.arange(flat.size)
    magnitude = np.abs(flat)
    threshold = np.partition(magnitude, flat.size - k)[flat.size - k]
    above = np.flatnonzero(magnitude > threshold)
    equal = np.flatnonzero(magnitude == threshold)[: k - above.size]
    return np.sort(np.concatenate([above, equal]))
