"""state_dict <-> canonical tensors <-> safetensors.

Rules:
 * Canonical tensors: every floating-point parameter and buffer once, float32, under the shortest
   of its names (ties: the first in lexicographic order), without the ``_orig_mod`` of torch.compile
   and the ``module`` of DistributedDataParallel. A default nnU-Net has 292 keys for 108 tensors.
 * Integer buffers are neither sent nor touched.
 * Equal tensors make equal files: names and metadata are sorted. The safetensors library writes
   metadata in random order, so the few lines of the format are written here.
 * A file is validated before a byte of it is believed, and read tensor by tensor with positioned
   reads: mapping a file that somebody truncates kills the process.
 * torch is imported by the functions that take modules, and by no other.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.protocol import codec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedfs.learner import Array, Tensors

AnyArray = npt.NDArray[Any]
Shape = tuple[int, ...]

# Types in a safetensors file: bytes per value, and numpy's little-endian type if it has one.
_DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (1, "?"),
    "U8": (1, "<u1"),
    "I8": (1, "<i1"),
    "I16": (2, "<i2"),
    "F16": (2, "<f2"),
    "BF16": (2, None),
    "I32": (4, "<i4"),
    "F32": (4, "<f4"),
    "I64": (8, "<i8"),
    "F64": (8, "<f8"),
}
_NAMES = {np.dtype(numpy): name for name, (_, numpy) in _DTYPES.items() if numpy}
_METADATA = "__metadata__"
_WRAPPERS = frozenset({"_orig_mod", "module"})
_BLOCK_BYTES = 8 << 20
_LENGTH_BYTES = 8
_MAX_NAME, _MAX_DIMENSIONS = 512, 16
_SHOWN, _SHOWN_CHARACTERS = 3, 80


def canonical_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """Group a module's live ``state_dict()`` by storage.

    Returns:
        Canonical name -> all names of that tensor in ``state_dict``; sorted.

    Raises:
        TensorError: different tensors have the same name once wrappers are stripped.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in state_dict.items():
        # Tensors without elements share the null pointer, and nothing else.
        storage = tensor.untyped_storage().data_ptr() if tensor.numel() else name
        identity = (
            tensor.device,
            storage,
            tensor.storage_offset(),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
        )
        groups.setdefault(identity, []).append(name)
    owner: dict[str, tuple[Any, ...]] = {}
    out: dict[str, tuple[str, ...]] = {}
    for identity, names in groups.items():
        stripped = {_strip(name) for name in names}
        for name in stripped:
            if owner.setdefault(name, identity) is not identity:
                raise TensorError(f"the module has two different tensors {name!r}")
        out[min(stripped, key=lambda name: (len(name), name))] = tuple(sorted(names))
    return dict(sorted(out.items()))


def extract(module: nn.Module) -> dict[str, Array]:
    """Return copies of a module's canonical tensors, float32, on the CPU.

    Raises:
        TensorError: a tensor is complex, or names are ambiguous.
    """
    import torch  # noqa: PLC0415  takes seconds, and averaging does without

    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        for name, tensor in _float_tensors(module).items()
    }


def load_into(module: nn.Module, tensors: Tensors) -> None:
    """Copy canonical tensors into a module in place; its device and types stay as they are.

    Nothing is changed unless names, shapes and types all fit. A :class:`TensorFile` is copied
    tensor by tensor, so a value that is not finite is found after the tensors before it changed.

    Raises:
        TensorError: tensors differ from the module's, the first few are named; or the file holds
            values that are not finite.
    """
    import torch  # noqa: PLC0415  takes seconds, and averaging does without

    targets = _float_tensors(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    if isinstance(tensors, TensorFile):
        tensors.check_against(shapes)
    else:
        _check_layout({name: (_dtype(a), a.shape) for name, a in tensors.items()}, shapes)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(torch.tensor(tensors[name]))


def weights_sha256(tensors: Mapping[str, AnyArray]) -> str:
    """Return a hash of names, types, shapes and values, whatever file or order they come in.

    SHA-256 over, for every tensor by ascending name, the canonical JSON of
    ``[name, dtype, shape]``, a line feed, and its values in C order, little-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        dtype = _dtype(array)
        digest.update(codec.dumps([name, dtype, list(array.shape)]) + b"\n")
        digest.update(_little_endian(array, dtype))
    return digest.hexdigest()


def write_safetensors(
    path: Path, tensors: Mapping[str, AnyArray], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors; equal input gives equal bytes, and ``path`` is complete or absent.

    Raises:
        TensorError: a tensor's type is none of numpy's that safetensors has.
        OSError: the file cannot be written, for example because the disk is full.
    """
    layout = {name: (_dtype(array), array.shape) for name, array in tensors.items()}
    _write(path, layout, tensors.__getitem__, metadata or {})


def stream_safetensors(
    path: Path,
    shapes: Mapping[str, Shape],
    tensor: Callable[[str], Array],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write float32 tensors that are made one at a time, in ascending order of their names.

    The bytes are those of :func:`write_safetensors`; memory is that of one tensor.

    Args:
        path: file to write; complete or absent, also if ``tensor`` raises.
        shapes: name -> shape of every tensor.
        tensor: called with each name, returns its float32 array.
        metadata: kept in the file's header.

    Raises:
        TensorError: ``tensor`` returned another shape or type.
        OSError: the file cannot be written, for example because the disk is full.
    """
    _write(path, {name: ("F32", shape) for name, shape in shapes.items()}, tensor, metadata or {})


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
            header, size = self._read_header(max_header_bytes)
            self.metadata: Mapping[str, str] = MappingProxyType(_parse_metadata(header))
            self._entries = _parse_entries(header, size - self._data_begin, max_tensors)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> AnyArray:
        return self.read(name)

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

    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors spells it, for example ``F32``."""
        return self._entries[name].dtype

    def check_against(self, expected: Mapping[str, Shape], *, dtype: str = "F32") -> None:
        """Check that the file holds exactly these tensors, all of type ``dtype``.

        Raises:
            TensorError: naming the first few differences.
        """
        layout = {name: (entry.dtype, entry.shape) for name, entry in self._entries.items()}
        _check_layout(layout, expected, dtype=dtype)

    def read(self, name: str, *, finite: bool = True) -> AnyArray:
        """Read one tensor into an array of its own.

        Args:
            name: one of :attr:`names`; others are a KeyError.
            finite: refuse NaN and infinities.

        Raises:
            TensorError: values are not finite, the file was truncated, or numpy lacks the type.
            OSError: the file cannot be read.
        """
        entry = self._entries[name]
        numpy_dtype = _DTYPES[entry.dtype][1]
        if numpy_dtype is None:
            raise TensorError(f"tensor {name!r} has type {entry.dtype}, which is not read here")
        array = np.empty(entry.shape, dtype=numpy_dtype)
        if array.size:
            self._read_into(array.reshape(-1).view(np.uint8).data, entry.begin)
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TensorError(f"tensor {name!r} holds NaN or infinite values")
        return array

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_header(self, max_header_bytes: int) -> tuple[dict[str, Any], int]:
        """Return the header and the file's size; positions are relative to the data afterwards."""
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise TensorError(f"{self._path.name} is not a regular file")
        size = status.st_size
        length = int.from_bytes(os.pread(self._fd, _LENGTH_BYTES, 0), "little")
        if size < _LENGTH_BYTES or not 0 < length <= min(max_header_bytes, size - _LENGTH_BYTES):
            raise TensorError(
                f"{self._path.name}: {size} bytes cannot hold a header of {length} bytes "
                f"(at most {max_header_bytes} are accepted)"
            )
        raw = bytearray(length)
        self._read_into(memoryview(raw), _LENGTH_BYTES)
        header = codec.loads(bytes(raw))
        if raw[:1] != b"{" or not isinstance(header, dict):
            raise TensorError(f"{self._path.name}: the header is not a JSON object")
        self._data_begin = _LENGTH_BYTES + length
        return header, size

    def _read_into(self, buffer: memoryview, begin: int) -> None:
        done = 0
        while done < len(buffer):
            wanted = min(_BLOCK_BYTES, len(buffer) - done)
            block = os.pread(self._fd, wanted, self._data_begin + begin + done)
            if not block:
                raise TensorError(f"{self._path.name} was truncated while it was read")
            buffer[done : done + len(block)] = block
            done += len(block)


def _strip(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _float_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    out = {}
    for canonical, names in canonical_names(state).items():
        tensor = state[names[0]]
        if tensor.is_complex():
            raise TensorError(f"tensor {canonical!r} is complex, which is not supported")
        if tensor.is_floating_point():
            out[canonical] = tensor
    return out


def _check_layout(
    layout: Mapping[str, tuple[str, Shape]], expected: Mapping[str, Shape], *, dtype: str = "F32"
) -> None:
    differences = itertools.chain(
        (f"{_short(name)} is missing" for name in sorted(expected.keys() - layout.keys())),
        (f"{_short(name)} is unexpected" for name in sorted(layout.keys() - expected.keys())),
        (
            f"{_short(name)} is {found[0]} {list(found[1])}, not {dtype} {list(expected[name])}"
            for name, found in sorted(layout.items())
            if name in expected and found != (dtype, tuple(expected[name]))
        ),
    )
    shown = list(itertools.islice(differences, _SHOWN))
    if shown:
        more = sum(1 for _ in differences)
        raise TensorError(
            "tensors differ: " + "; ".join(shown) + (f"; and {more} more" if more else "")
        )


def _short(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "...")


def _dtype(array: AnyArray) -> str:
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise TensorError(f"arrays of type {array.dtype} cannot be written as safetensors")
    return name


def _little_endian(array: AnyArray, dtype: str) -> memoryview:
    plain = np.asarray(array, dtype=_DTYPES[dtype][1], order="C")
    return plain.reshape(-1).view(np.uint8).data if plain.size else memoryview(b"")


def _write(
    path: Path,
    layout: Mapping[str, tuple[str, Shape]],
    tensor: Callable[[str], AnyArray],
    metadata: Mapping[str, str],
) -> None:
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in sorted(layout.items()):
        begin, end = end, end + _DTYPES[dtype][0] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = codec.dumps(header)
    raw += b" " * (-len(raw) % 8)  # so that tensors are aligned where a reader maps the file
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(len(raw).to_bytes(_LENGTH_BYTES, "little") + raw)
            for name, announced in sorted(layout.items()):
                file.write(_announced_bytes(name, tensor(name), announced))
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _announced_bytes(name: str, array: AnyArray, announced: tuple[str, Shape]) -> memoryview:
    dtype, shape = announced
    if (_dtype(array), array.shape) != (dtype, tuple(shape)):
        raise TensorError(
            f"tensor {name!r} is {array.dtype} {list(array.shape)}, "
            f"announced as {dtype} {list(shape)}"
        )
    return _little_endian(array, dtype)


def _parse_metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop(_METADATA, {})
    if not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise TensorError("the header's metadata are not texts")
    return metadata


def _parse_entry(name: str, value: Any) -> _Entry:
    if not 0 < len(name) <= _MAX_NAME:
        raise TensorError(
            f"a tensor's name has {len(name)} characters, 1 to {_MAX_NAME} are allowed"
        )
    if not (isinstance(value, dict) and value.keys() == {"dtype", "shape", "data_offsets"}):
        raise TensorError(f"tensor {_short(name)}: dtype, shape and data_offsets are required")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise TensorError(f"tensor {_short(name)} has unknown type {_short(str(dtype))}")
    if not (_are_counts(shape) and len(shape) <= _MAX_DIMENSIONS):
        raise TensorError(f"tensor {_short(name)}: shape must be at most {_MAX_DIMENSIONS} counts")
    if not (_are_counts(offsets) and len(offsets) == 2):  # noqa: PLR2004  begin and end
        raise TensorError(f"tensor {_short(name)}: data_offsets must be two counts")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPES[dtype][0]:
        raise TensorError(f"tensor {_short(name)}: its bytes do not match its shape")
    return _Entry(dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _parse_entries(header: dict[str, Any], size: int, max_tensors: int) -> dict[str, _Entry]:
    if len(header) > max_tensors:
        raise TensorError(f"{len(header)} tensors, at most {max_tensors} are accepted")
    entries = {name: _parse_entry(name, header[name]) for name in sorted(header)}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise TensorError(f"tensor {_short(name)} overlaps another or leaves a gap")
        end = entry.end
    if end != size:
        raise TensorError(f"the tensors take {end} bytes, the file holds {size}")
    return entries
