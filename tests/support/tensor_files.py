"""Tensors for tests of files, and a writer that knows their types."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.tensors import canonical
from fedfs.tensors.safetensors_layout import dtype_of

TENSORS: dict[str, npt.NDArray[Any]] = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 3), dtype=np.float32),
    "c.bias": np.linspace(-1, 1, 7, dtype=np.float32),
}
OTHERS: dict[str, npt.NDArray[Any]] = {
    "half": np.array([[1, -2.5], [0, 2**-130]], np.float32),
    "levels": np.array([[1, 2, 3], [-1, -2, -127]], np.int8),
}


def stream(path: Path, tensors: Mapping[str, npt.NDArray[Any]], **options: Any) -> None:
    shapes = {name: array.shape for name, array in tensors.items()}
    own = {name: dtype_of(array) for name, array in tensors.items()} | options.pop("dtypes", {})
    canonical.stream_safetensors(path, shapes, tensors.__getitem__, dtypes=own, **options)


def assert_same(
    found: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, npt.NDArray[Any]]
) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def entry(
    dtype: str = "F32", shape: Sequence[int] = (2,), offsets: Sequence[int] = (0, 8)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def forged(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data
