"""How an update is written into a payload, tensor by tensor.

Rules:
 * The encoding is part of the charter; all sites of a study use the same.
 * ``decode(encode(trained, base), base)`` is the update's delta, exactly for lossless encodings.
 * A lossless encoding carries the trained values themselves: a float32 delta would round. Lossy
   ones, whose deltas are small, carry the encoded delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedfs.aggregate.strategies.base import Delta
    from fedfs.learner import Array


class Encoding(Protocol):
    """A way to carry an update."""

    @property
    def name(self) -> str:
        """Name in the charter."""

    @property
    def dtype(self) -> str:
        """Type of the payload's tensors, as safetensors spells it."""

    def encode(self, trained: Array, base: Array) -> npt.NDArray[Any]:
        """Return the payload of one tensor, to be written to the store.

        Raises:
            TensorError: ``trained`` and ``base`` differ in shape.
        """

    def decode(self, payload: npt.NDArray[Any], base: Array) -> Delta:
        """Return the delta that a payload carries, shaped like ``base``, in float64.

        Raises:
            TensorError: the payload has not the type or shape that ``base`` calls for.
        """


@dataclass(frozen=True)
class Fp32:
    """The trained values as they are: lossless, 4 bytes per value."""

    name: str = "fp32"
    dtype: str = "F32"

    def encode(self, trained: Array, base: Array) -> Array:
        """Return the trained values."""
        _check_shape(trained, base)
        return np.asarray(trained, dtype=np.float32, order="C")

    def decode(self, payload: npt.NDArray[Any], base: Array) -> Delta:
        """Return ``payload - base``, the difference of float32 values formed in float64."""
        _check_shape(payload, base)
        if payload.dtype != np.float32:
            raise TensorError(f"payload of type {payload.dtype}, the encoding fp32 has float32")
        return np.asarray(np.subtract(payload, base, dtype=np.float64))


ENCODINGS: Mapping[str, Encoding] = MappingProxyType({"fp32": Fp32()})
"""Name in the charter -> encoding."""


def by_name(name: str) -> Encoding:
    """Return the encoding that a charter names.

    Raises:
        UserError: no such encoding; lists the known ones.
    """
    if name not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise UserError(f"unknown encoding {name!r}", hint=f"known are: {known}")
    return ENCODINGS[name]


def _check_shape(array: npt.NDArray[Any], base: Array) -> None:
    if array.shape != base.shape:
        raise TensorError(f"update of shape {array.shape} for a tensor of shape {base.shape}")
