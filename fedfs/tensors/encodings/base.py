"""The seam of an encoding: trained values in, payload tensors out, and back to a delta or values.

Rules:
 * A lossless encoding carries the trained values themselves: a float32 delta would round. A lossy
   one carries the encoded delta, which is small, under other names than the tensor's own: nobody
   can take a delta for weights.
 * Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): what a lossy
   encoding did not carry is the residual, which is added to the next delta. Nothing is lost, it
   only comes later. Whoever encodes keeps the residual; whoever decodes never needs it.
 * One canonical tensor becomes one or more payload tensors, whose names, types and shapes follow
   from its name and shape alone. A reader knows the size of a payload before it downloads it, and
   refuses everything that it did not expect.
 * Equal payloads decode to equal bits on every host: integers and one scale, multiplied in float64.
   So does a global version that travels as a delta: base plus delta in float64, then one rounding
   to float32 (to nearest, ties to even).
 * Equal inputs encode to equal payloads on every host: two aggregators publish the same bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.learner import Array
from fedfs.tensors.safetensors_layout import DTYPES, AnyArray, Entry, Shape

Delta = npt.NDArray[np.float64]
"""Trained minus the version it was trained from, both float32, formed in float64."""

Base = npt.NDArray[np.floating[Any]]
"""Float32 values, in float64 if the caller has them so: that saves widening them per update."""

# Between a canonical name and the part of it that a payload tensor holds. In ASCII it precedes the
# full stop, so that the parts of a tensor follow each other in a sorted file.
SEPARATOR = "#"
VALUES, INDICES, SCALE = "values", "indices", "scale"


@dataclass(frozen=True)
class Encoded:
    """One tensor's payload.

    Attributes:
        payload: payload tensor name -> array, as :meth:`Encoding.expected` announces them.
        residual: what the payload does not carry, float32, to be passed with the next delta; None
            if the encoding is lossless.
    """

    payload: Mapping[str, AnyArray]
    residual: Array | None


class Decoder(Protocol):
    """A way to read one tensor's update."""

    @property
    def elementwise(self) -> bool:
        """True where ``decode`` also takes matching slices of payload and base."""

    def expected(self, name: str, shape: Shape) -> dict[str, Entry]:
        """Return the payload tensors that a canonical tensor becomes, with type and shape.

        Raises:
            TensorError: the name holds what separates names from parts.
        """

    def decode(self, name: str, payload: Mapping[str, AnyArray], base: Base) -> Delta:
        """Return the delta that a payload carries, shaped like ``base``, in float64.

        Args:
            name: canonical name of the tensor.
            payload: where its payload tensors are looked up, e.g. a whole file; not trusted.
            base: the values that the delta applies to.

        Raises:
            TensorError: a payload tensor is missing, has another type, shape or range than ``base``
                calls for, or ``base`` plus the delta is not finite in float32.
        """

    def decode_again(
        self, name: str, payload: Mapping[str, AnyArray], base: Base, out: Delta | None = None
    ) -> Delta:
        """Return the same, faster, of a payload that :meth:`decode` has accepted before.

        If that has been damaged since, values that are not finite are not found.

        Args and Raises as for :meth:`decode`; ``out`` may be overwritten and returned.
        """


class Encoding(Decoder, Protocol):
    """A way to carry one tensor's update, or its next global value."""

    @property
    def name(self) -> str:
        """Name in the charter."""

    @property
    def lossless(self) -> bool:
        """True where payloads hold the values themselves, so that there never is a residual."""

    @property
    def summable(self) -> bool:
        """True where payloads of several sites can be added, so that masks may hide them."""

    def encode(
        self, name: str, trained: Array, base: Array, residual: Array | None = None
    ) -> Encoded:
        """Encode how ``trained`` differs from ``base``, plus what was not carried before.

        Args:
            name: canonical name of the tensor.
            trained: its new values, float32.
            base: its values before, float32, same shape.
            residual: what the encoding before this one left; None at the first.

        Raises:
            TensorError: shapes differ, or a value is not finite.
        """

    def reconstruct(self, name: str, payload: Mapping[str, AnyArray], base: Array) -> Array:
        """Return the new values that a payload carries, float32, the same bits on every host.

        Args and Raises as for :meth:`decode`.
        """


class Deltas(ABC):
    """Base of payloads that hold deltas, which are only dequantised."""

    @abstractmethod
    def parts(self, shape: Shape) -> dict[str, Entry]:
        """Return part -> type and shape for a tensor of ``shape``."""

    @abstractmethod
    def dequantise(self, parts: Mapping[str, AnyArray], shape: Shape) -> Delta:
        """Return the delta in float64; types and shapes of ``parts`` are checked already.

        Raises:
            TensorError: values that no update has.
        """

    def expected(self, name: str, shape: Shape) -> dict[str, Entry]:
        """Return the payload tensors that a canonical tensor becomes; see :class:`Decoder`."""
        return {part_name(name, part): entry for part, entry in self.parts(tuple(shape)).items()}

    def decode(self, name: str, payload: Mapping[str, AnyArray], base: Base) -> Delta:
        """Return the delta that a payload carries; see :class:`Decoder`."""
        delta = self._decode(name, payload, base)
        _apply(name, delta, base)
        return delta

    def decode_again(
        self,
        name: str,
        payload: Mapping[str, AnyArray],
        base: Base,
        out: Delta | None = None,  # noqa: ARG002  others use it
    ) -> Delta:
        """Return the delta that a payload carries; see :class:`Decoder`."""
        return self._decode(name, payload, base, finite=False)

    def _decode(
        self, name: str, payload: Mapping[str, AnyArray], base: Base, *, finite: bool = True
    ) -> Delta:
        entries = self.parts(base.shape)
        parts = {
            part: checked(payload, part_name(name, part), entry, finite=finite)
            for part, entry in entries.items()
        }
        try:
            return self.dequantise(parts, base.shape)
        except TensorError as error:
            raise TensorError(error.fault, about=f"the update of {name!r}") from error


class Lossy(Deltas):
    """Base of encodings of deltas, which only quantise and dequantise."""

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    summable: ClassVar[bool] = False

    @abstractmethod
    def quantise(self, delta: Delta) -> dict[str, AnyArray]:
        """Return part -> array for a finite delta."""

    def encode(
        self, name: str, trained: Array, base: Array, residual: Array | None = None
    ) -> Encoded:
        """Encode ``trained - base + residual``; see :class:`Encoding`."""
        delta = delta_of(name, trained, base, residual)
        parts = self.quantise(delta)
        delta -= self.dequantise(parts, base.shape)
        payload = {part_name(name, part): array for part, array in parts.items()}
        return Encoded(payload, delta.astype(np.float32))

    def reconstruct(self, name: str, payload: Mapping[str, AnyArray], base: Array) -> Array:
        """Return base plus delta, added in float64 and rounded once; see :class:`Encoding`."""
        return _apply(name, self._decode(name, payload, base), base)


def delta_of(name: str, trained: Array, base: Array, residual: Array | None) -> Delta:
    """Return ``trained - base + residual``.

    Raises:
        TensorError: shapes differ, or a value is not finite.
    """
    check_shape(name, trained, base)
    delta = np.asarray(np.subtract(trained, base, dtype=np.float64))
    if residual is not None:
        check_shape(name, residual, base)
        delta += residual
    if not np.isfinite(_float32(delta)).all():
        raise TensorError("holds NaN or infinite values", about=f"the update of {name!r}")
    return delta


def part_name(name: str, part: str) -> str:
    """Return the name of a payload tensor; a module's tensors cannot have the same.

    Raises:
        TensorError: ``name`` holds the separator.
    """
    if SEPARATOR in name:
        raise TensorError(f"has {SEPARATOR!r} in its name", about=f"the tensor {name!r}")
    return f"{name}{SEPARATOR}{part}"


def payload_layout(encoding: Decoder, shapes: Mapping[str, Shape]) -> dict[str, Entry]:
    """Return every payload tensor, with type and shape, of a model with tensors of ``shapes``."""
    return {
        payload_name: entry
        for name, shape in shapes.items()
        for payload_name, entry in encoding.expected(name, tuple(shape)).items()
    }


def checked(
    payload: Mapping[str, AnyArray], name: str, entry: Entry, *, finite: bool = True
) -> AnyArray:
    """Return one tensor of a payload, of the type and shape that are expected, and ``finite``.

    Raises:
        TensorError: it is missing or something else.
    """
    dtype, shape = entry
    if name not in payload:
        raise TensorError(f"has no tensor {name!r}")
    array = payload[name]
    if array.shape != shape:
        raise TensorError(f"has the shape {array.shape}, not {shape}", about=f"the tensor {name!r}")
    if array.dtype != np.dtype(DTYPES[dtype][1]):
        raise TensorError(f"is of type {array.dtype}, not {dtype}", about=f"the tensor {name!r}")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError("holds NaN or infinite values", about=f"the tensor {name!r}")
    return array


def check_shape(name: str, array: AnyArray, base: AnyArray) -> None:
    """Check that two arrays have one shape.

    Raises:
        TensorError: they have not.
    """
    if array.shape != base.shape:
        raise TensorError(
            f"has the shape {array.shape}, not {base.shape}", about=f"the update of {name!r}"
        )


def _apply(name: str, delta: Delta, base: Base) -> Array:
    values = _float32(np.asarray(np.add(base, delta, dtype=np.float64)))
    if not np.isfinite(values).all():
        raise TensorError("leads to values that are not finite", about=f"the update of {name!r}")
    return values


def _float32(values: Delta) -> Array:
    with np.errstate(over="ignore"):  # callers look for infinity
        return np.asarray(values.astype(np.float32))
