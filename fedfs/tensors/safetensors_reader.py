"""A reader of safetensors files that trusts nothing.

The safetensors library is a second reader, see :mod:`fedfs.tensors.safetensors_library`, and no
replacement (``bench/safetensors_readers.py``, safetensors 0.8.0):

 * Its mapped reader dies of SIGBUS if the file is cut off while it is open.
 * Its positioned reader reads the whole tensor for every slice. In slices of 1 MiB, a tensor of 4
   MiB takes 4 times the processor time of this reader, one of 8 MiB 13, and one of 16 MiB 32.
 * It accepts a header that names a tensor twice, and NaN.

Rules:
 * A file is validated before a byte of it is believed, and read tensor by tensor with positioned
   reads: mapping a file that somebody truncates kills the process.
 * numpy has no bfloat16. Such values are float32 arrays here whose lower 16 bits are zero, on the
   way in and on the way out, so that no bit pattern is ever taken for a number.
"""

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from fedfs.errors import MalformedError, TensorError
from fedfs.protocol import codec
from fedfs.tensors.safetensors_layout import (
    BF16,
    DTYPES,
    LENGTH_BYTES,
    METADATA,
    AnyArray,
    Entry,
    Shape,
    check_layout,
    short_name,
)

_STORED = {name: np.dtype("<u2" if name == BF16 else numpy) for name, (_, numpy) in DTYPES.items()}
_MAX_NAME, _MAX_DIMENSIONS = 512, 16


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: Shape
    begin: int
    end: int


class TensorFile(Mapping[str, AnyArray]):
    """A safetensors file that nobody vouches for, read tensor by tensor.

    It is a mapping from name to array, names ascending; every look-up reads from the file and
    refuses NaN and infinities. Keep it open with ``with``, or call :meth:`close`.
    """

    def __init__(
        self, path: Path, *, max_header_bytes: int = 2 << 20, max_tensors: int = 100_000
    ) -> None:
        """Open and validate ``path``.

        Raises:
            MalformedError: the header is not JSON.
            TensorError: not a safetensors file, or one whose header contradicts itself or its size.
            OSError: the file cannot be opened or read.
        """
        self._path = path
        self._data_begin = 0
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            raw, n_data_bytes = self._read_header(max_header_bytes)
            self.metadata, self._entries = _parse(raw, n_data_bytes, max_tensors)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> AnyArray:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, ascending."""
        return tuple(self._entries)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor."""
        return self._entries[name].shape

    def n_values(self, name: str) -> int:
        """Number of values of a tensor."""
        return math.prod(self._entries[name].shape)

    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors spells it, for example ``F32``."""
        return self._entries[name].dtype

    def check_against(self, expected: Mapping[str, Shape], *, dtype: str = "F32") -> None:
        """Check that the file holds exactly these tensors, all of type ``dtype``.

        Raises:
            TensorError: naming the first few differences.
        """
        self.check_layout({name: (dtype, tuple(shape)) for name, shape in expected.items()})

    def check_layout(self, expected: Mapping[str, Entry]) -> None:
        """Check that the file holds exactly these tensors, in these types and shapes.

        Raises:
            TensorError: naming the first few differences.
        """
        check_layout({n: (e.dtype, e.shape) for n, e in self._entries.items()}, expected)

    def read(self, name: str, *, finite: bool = True) -> AnyArray:
        """Read one tensor into an array of its own; bfloat16 comes as float32.

        Args:
            name: one of :attr:`names`; others are a KeyError.
            finite: refuse NaN and infinities.

        Raises:
            TensorError: values are not finite, or the file was truncated.
            OSError: the file cannot be read.
        """
        shape = self._entries[name].shape
        array = self.read_slice(name, 0, math.prod(shape)).reshape(shape)
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TensorError("holds NaN or infinite values", about=f"the tensor {name!r}")
        return array

    def read_slice(
        self, name: str, start: int, stop: int, *, out: AnyArray | None = None
    ) -> AnyArray:
        """Read the values from ``start`` to ``stop`` of a tensor in C order; finite or not.

        Args:
            name: one of :attr:`names`; others are a KeyError.
            start: first value.
            stop: the one after the last.
            out: array of the tensor's type to fill and return; a new one if it does not fit.

        Raises:
            TensorError: the file was truncated.
            OSError: the file cannot be read.
        """
        entry = self._entries[name]
        stored = _STORED[entry.dtype]
        if out is None or out.dtype != stored or out.shape != (stop - start,):
            out = np.empty(stop - start, dtype=stored)
        if out.size:
            self._read_into(out.data.cast("B"), entry.begin + start * out.itemsize)
        if entry.dtype == BF16:
            return np.left_shift(out, 16, dtype="<u4").view("<f4")
        return out

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_header(self, max_header_bytes: int) -> tuple[bytes, int]:
        """Return the header and how many bytes follow it; positions count from there afterwards."""
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise TensorError("is not a regular file", about=f"the file {self._path.name}")
        size = status.st_size
        length = int.from_bytes(os.pread(self._fd, LENGTH_BYTES, 0), "little")
        if size < LENGTH_BYTES or not 0 < length <= min(max_header_bytes, size - LENGTH_BYTES):
            raise TensorError(
                f"has {size} bytes, which cannot hold a header of {length} bytes "
                f"(at most {max_header_bytes} are accepted)",
                about=f"the file {self._path.name}",
            )
        raw = bytearray(length)
        self._read_into(memoryview(raw), LENGTH_BYTES)
        self._data_begin = LENGTH_BYTES + length
        return bytes(raw), size - self._data_begin

    def _read_into(self, buffer: memoryview, begin: int) -> None:
        begin += self._data_begin
        while len(buffer):
            n = os.preadv(self._fd, [buffer], begin)
            if not n:
                raise TensorError(
                    "was truncated while it was read", about=f"the file {self._path.name}"
                )
            buffer, begin = buffer[n:], begin + n


@lru_cache(maxsize=1)  # all updates of a round have the same header
def _parse(
    raw: bytes, n_data_bytes: int, max_tensors: int
) -> tuple[Mapping[str, str], Mapping[str, _Entry]]:
    try:
        header = codec.loads(raw)
    except MalformedError as error:
        raise TensorError(error.fault, about="the header") from error
    if raw[:1] != b"{" or not isinstance(header, dict):
        raise TensorError("is not a JSON object", about="the header")
    metadata = _parse_metadata(header)
    entries = _parse_entries(header, n_data_bytes, max_tensors)
    return MappingProxyType(metadata), MappingProxyType(entries)


def _parse_metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop(METADATA, {})
    if not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise TensorError("holds metadata other than text", about="the header")
    return metadata


def _parse_entry(name: str, value: Any) -> _Entry:
    if not 0 < len(name) <= _MAX_NAME:
        raise TensorError(
            f"has {len(name)} characters; 1 to {_MAX_NAME} are allowed", about="a tensor's name"
        )
    about = f"the tensor {short_name(name)}"
    if not (isinstance(value, dict) and value.keys() == {"dtype", "shape", "data_offsets"}):
        raise TensorError("has other fields than dtype, shape and data_offsets", about=about)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise TensorError(f"has the unknown type {short_name(str(dtype))}", about=about)
    if not (_are_counts(shape) and len(shape) <= _MAX_DIMENSIONS):
        raise TensorError(f"has a shape that is not at most {_MAX_DIMENSIONS} counts", about=about)
    if not (_are_counts(offsets) and len(offsets) == 2):  # noqa: PLR2004  begin and end
        raise TensorError("has data_offsets that are not two counts", about=about)
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype][0]:
        raise TensorError("has other bytes than its shape takes", about=about)
    return _Entry(dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _parse_entries(header: dict[str, Any], size: int, max_tensors: int) -> dict[str, _Entry]:
    if len(header) > max_tensors:
        raise TensorError(f"holds {len(header)} tensors; at most {max_tensors} are accepted")
    entries = {name: _parse_entry(name, header[name]) for name in sorted(header)}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise TensorError(
                "overlaps another or leaves a gap", about=f"the tensor {short_name(name)}"
            )
        end = entry.end
    if end != size:
        raise TensorError(f"holds {size} bytes of tensors, which take {end}")
    return entries
