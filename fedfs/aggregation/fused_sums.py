"""Weighted sums of updates in one pass over each, by numba where that is installed.

numpy makes four passes: widen, subtract, multiply, add. One loop does all of it for a value before
it takes the next, with the same roundings: no product and sum are fused into one (numba does so
only with ``fastmath``), so that the bits are numpy's. ``bench/aggregate.py`` measures both.

numexpr, which is installed wherever nnU-Net is, was slower than numpy, as it widens in blocks of
its own; torch fuses product and sum where the processor can, which changes bits.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import cast

import numpy as np

from fedfs.learner import Array
from fedfs.tensors.encodings.base import Delta

Add = Callable[[Delta, Array, Array, float, bool], None]
"""``add(total, values, base, share, is_first)``: add ``(values - base) * share`` to ``total``, or
begin with it. All of them are contiguous and of one size; ``values`` and ``base`` are float32.
"""

WORTH_COMPILING = 1 << 28
"""Values of all updates together from which on compiling takes less time than it saves.

These are 9 updates of nnU-Net's default 3d network. Compiling takes about a second, once in a
process, and saves about a nanosecond for each value.
"""


def fused_add(n_values: int) -> Add | None:
    """Return what adds an update in one pass; None where numpy is as good.

    Args:
        n_values: of all updates together that are to be added.
    """
    if n_values < WORTH_COMPILING or importlib.util.find_spec("numba") is None:
        return None
    return _compiled()


@cache
def _compiled() -> Add:
    import numba  # noqa: PLC0415  takes half a second, and most hosts do without

    compiled = numba.njit("void(f8[::1], f4[::1], f4[::1], f8, b1)", nogil=True)(_add)
    return cast("Add", compiled)


def _add(total: Delta, values: Array, base: Array, share: float, is_first: bool) -> None:  # noqa: FBT001  called with many values at a time
    if is_first:
        for i in range(total.size):
            total[i] = (np.float64(values[i]) - np.float64(base[i])) * share
    else:
        for i in range(total.size):
            total[i] += (np.float64(values[i]) - np.float64(base[i])) * share
