"""Numbers of a few bits each in arrays of bytes, and sets of indices in Elias-Fano code.

Rules:
 * The number of bytes follows from how many numbers there are, and from nothing else.
 * There is one way to write given numbers; bytes that are another are refused.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.errors import TensorError

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def packed_bytes(count: int, width: int) -> int:
    """Return how many bytes ``count`` numbers of ``width`` bits take."""
    return (count * width + 7) // 8


def pack(numbers: npt.NDArray[np.integer[Any]], width: int) -> Bytes:
    """Return numbers from 0 to ``2**width - 1`` one after the other, lowest bit first."""
    shifts = np.arange(width, dtype=np.uint32)
    bits = (numbers.astype(np.uint32)[:, None] >> shifts) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack(raw: Bytes, count: int, width: int) -> Integers:
    """Return what :func:`pack` packed.

    Raises:
        TensorError: too many or too few bytes, or a bit after the last number is set.
    """
    bits = _bits(raw, count * width).reshape(count, width)
    numbers = np.zeros(count, dtype=np.int64)
    for bit in range(width):
        numbers |= bits[:, bit].astype(np.int64) << bit
    return numbers


def indices_bytes(n: int, k: int) -> int:
    """Return how many bytes ``k`` different indices below ``n`` take."""
    if k == 0:
        return 0
    width = _low_width(n, k)
    return packed_bytes(k, width) + packed_bytes(_n_upper(n, k, width), 1)


def pack_indices(indices: npt.NDArray[np.integer[Any]], n: int) -> Bytes:
    """Return ascending, different indices below ``n`` in Elias-Fano code.

    The lower ``log2(n / k)`` bits of each follow one another. The rest of the i-th, h, is a set bit
    at position ``h + i`` of a second string.
    """
    k = len(indices)
    if k == 0:
        return np.zeros(0, dtype=np.uint8)
    width = _low_width(n, k)
    whole = indices.astype(np.int64)
    upper = np.zeros(_n_upper(n, k, width), dtype=np.uint8)
    upper[(whole >> width) + np.arange(k)] = 1
    low = pack(whole & ((1 << width) - 1), width)
    return np.concatenate([low, np.packbits(upper, bitorder="little")])


def unpack_indices(raw: Bytes, n: int, k: int) -> Integers:
    """Return ``k`` ascending, different indices below ``n``.

    Raises:
        TensorError: the bytes are not what :func:`pack_indices` writes for any such indices.
    """
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    width = _low_width(n, k)
    split = packed_bytes(k, width)
    low = unpack(raw[:split], k, width)
    positions = np.flatnonzero(_bits(raw[split:], _n_upper(n, k, width)))
    if len(positions) != k:
        raise TensorError(f"holds {len(positions)} indices, not {k}")
    indices = ((positions - np.arange(k)) << width) | low
    if indices[-1] >= n or (np.diff(indices) <= 0).any():
        raise TensorError("holds indices that do not ascend or are out of range")
    return np.asarray(indices, dtype=np.int64)


def _low_width(n: int, k: int) -> int:
    """Return ``floor(log2(n / k))``."""
    return (n // k).bit_length() - 1


def _n_upper(n: int, k: int, width: int) -> int:
    return k + ((n - 1) >> width)


def _bits(raw: Bytes, count: int) -> Bytes:
    if len(raw) != packed_bytes(count, 1):
        raise TensorError(f"holds {len(raw)} bytes for {count} bits")
    bits = np.unpackbits(raw, bitorder="little")
    if bits[count:].any():
        raise TensorError("has bits set after its last number")
    return bits[:count]
