"""The safetensors format: types, layouts, sizes, and the two ways in which fedfs writes a header.

A layout (name -> type and shape) is all that decides how large a file is, so a reader who knows
what to expect knows the size before the download.

Format: https://github.com/huggingface/safetensors#format
"""

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError
from fedfs.protocol import codec

AnyArray = npt.NDArray[Any]
Shape = tuple[int, ...]
Entry = tuple[str, Shape]
"""Type as safetensors spells it, and shape."""

BF16 = "BF16"
LENGTH_BYTES = 8
METADATA = "__metadata__"

DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "?"),
    "U8": (1, "<u1"),
    "I8": (1, "<i1"),
    "I16": (2, "<i2"),
    "F16": (2, "<f2"),
    BF16: (2, "<f4"),
    "I32": (4, "<i4"),
    "U32": (4, "<u4"),
    "F32": (4, "<f4"),
    "F64": (8, "<f8"),
    "I64": (8, "<i8"),
}
"""Types in a file: bytes per value in the file, and numpy's type for arrays of it.

In ascending order, as the safetensors library has it, which puts the highest type first in a file.
"""
_RANKS = {name: rank for rank, name in enumerate(DTYPES)}
_NAMES = {np.dtype(numpy): name for name, (_, numpy) in DTYPES.items() if name != BF16}
_SHOWN, _SHOWN_CHARACTERS = 3, 80


def dtype_of(array: AnyArray) -> str:
    """Return the type of an array as safetensors spells it.

    Raises:
        TensorError: safetensors has no such type.
    """
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise TensorError(
            "cannot be written as safetensors", about=f"an array of type {array.dtype}"
        )
    return name


def header_bytes(
    layout: Mapping[str, Entry],
    metadata: Mapping[str, str] | None = None,
    *,
    as_library: bool = False,
) -> bytes:
    """Return the beginning of a file, up to the data: equal layouts give equal bytes.

    Args:
        layout: name -> type and shape.
        metadata: kept in the header; with ``as_library`` at most one entry.
        as_library: as the safetensors library writes it, instead of canonical JSON.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    for name, (begin, end) in places(layout, as_library=as_library).items():
        dtype, shape = layout[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    if as_library:
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    else:
        raw = codec.dumps(header)
    raw += b" " * (-len(raw) % 8)  # so that tensors are aligned where a reader maps the file
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def places(layout: Mapping[str, Entry], *, as_library: bool = False) -> dict[str, tuple[int, int]]:
    """Return name -> first byte and byte after the last, from the end of the header; in order.

    Names ascend; with ``as_library`` those of one type do, and types descend.
    """
    out, end = {}, 0

    def place(item: tuple[str, Entry]) -> tuple[int, str]:
        return (-_RANKS[item[1][0]] if as_library else 0), item[0]

    for name, entry in sorted(layout.items(), key=place):
        begin, end = end, end + _n_bytes(entry)
        out[name] = (begin, end)
    return out


def file_bytes(layout: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> int:
    """Return the size in bytes of the file that fedfs writes for a layout."""
    return len(header_bytes(layout, metadata)) + sum(map(_n_bytes, layout.values()))


def check_layout(found: Mapping[str, Entry], expected: Mapping[str, Entry]) -> None:
    """Check that two layouts are the same.

    Raises:
        TensorError: naming the first few differences.
    """
    differences = itertools.chain(
        (f"{short_name(name)} is missing" for name in sorted(expected.keys() - found.keys())),
        (f"{short_name(name)} is unexpected" for name in sorted(found.keys() - expected.keys())),
        (
            f"{short_name(name)} is {_text(entry)}, not {_text(expected[name])}"
            for name, entry in sorted(found.items())
            if name in expected and entry != (expected[name][0], tuple(expected[name][1]))
        ),
    )
    shown = list(itertools.islice(differences, _SHOWN))
    if shown:
        more = sum(1 for _ in differences)
        raise TensorError(
            "has other tensors than expected: "
            + "; ".join(shown)
            + (f"; and {more} more" if more else "")
        )


def _n_bytes(entry: Entry) -> int:
    return DTYPES[entry[0]][0] * math.prod(entry[1])


def _text(entry: Entry) -> str:
    return f"{entry[0]} {list(entry[1])}"


def short_name(name: str) -> str:
    """Return a name as errors show it: quoted, and cut off if it is long."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "...")
