"""fp32: the trained values as they are, lossless."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedfs.errors import TensorError
from fedfs.learner import Array
from fedfs.tensors.encodings.base import Base, Delta, Encoded, check_shape, checked
from fedfs.tensors.safetensors_layout import AnyArray, Entry, Shape


@dataclass(frozen=True)
class Fp32:
    """4 bytes per value, under the tensor's own name: a payload is a set of weights."""

    name: ClassVar[str] = "fp32"
    lossless: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    summable: ClassVar[bool] = False

    def expected(self, name: str, shape: Shape) -> dict[str, Entry]:
        """Return the tensor itself; see :class:`~fedfs.tensors.encodings.base.Encoding`."""
        return {name: ("F32", tuple(shape))}

    def encode(
        self, name: str, trained: Array, base: Array, residual: Array | None = None
    ) -> Encoded:
        """Return the trained values, and no residual.

        A residual that another encoding left, before the charter was amended, is added to them.

        Raises:
            TensorError: shapes differ, or a value is not finite.
        """
        check_shape(name, trained, base)
        values = np.asarray(trained, dtype=np.float32, order="C")
        if residual is not None:
            check_shape(name, residual, base)
            values = np.add(values, residual, dtype=np.float64).astype(np.float32)
        if not np.isfinite(values).all():
            raise TensorError("holds NaN or infinite values", about=f"the update of {name!r}")
        return Encoded({name: values}, None)

    def decode(self, name: str, payload: Mapping[str, AnyArray], base: Base) -> Delta:
        """Return payload minus base, the difference of float32 values formed in float64."""
        return _minus(checked(payload, name, ("F32", base.shape)), base)

    def decode_again(
        self, name: str, payload: Mapping[str, AnyArray], base: Base, out: Delta | None = None
    ) -> Delta:
        """Return payload minus base; see :class:`~fedfs.tensors.encodings.base.Encoding`."""
        return _minus(checked(payload, name, ("F32", base.shape), finite=False), base, out)

    def reconstruct(self, name: str, payload: Mapping[str, AnyArray], base: Array) -> Array:
        """Return the payload: base plus a rounded difference might differ in the last bit."""
        return np.asarray(checked(payload, name, ("F32", base.shape)), dtype=np.float32)


def _minus(values: AnyArray, base: Base, out: Delta | None = None) -> Delta:
    delta = np.empty(base.shape) if out is None else out
    np.copyto(delta, values)  # faster than np.subtract alone, which would widen in small blocks
    delta -= base
    return delta
