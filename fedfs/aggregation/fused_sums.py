"""Weighted sums of updates in one pass over each, by numba where that is installed.

numpy makes four passes: widen, subtract, multiply, add. One loop does all of it, and for four
updates, before it takes the next value, with the same roundings in the same order: no product and
sum are fused into one (numba does so only with ``fastmath``), so that the bits are numpy's.
``bench/aggregate.py`` measures both.

numexpr, which is installed wherever nnU-Net is, was slower than numpy, as it widens in blocks of
its own; torch fuses product and sum where the processor can, which changes bits.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from fedfs.learner import Array
from fedfs.tensors.encodings.base import Delta

GROUP = 4
"""Updates that are added in one pass over the sum."""

Trained = tuple[float, Array, Array]
"""Share of an update, its values, and the values that it was trained from, both float32."""

Add = Callable[[Delta, Sequence[Trained], bool], None]
"""``add(total, updates, is_first)``: add ``(values - base) * share`` of up to :data:`GROUP` updates
to ``total``, one after the other, or begin with it. All are contiguous and of one size.
"""

WORTH_COMPILING = 1 << 28
"""Values of all updates together from which on compiling takes less time than it saves.

These are 9 updates of nnU-Net's default 3d network. Compiling takes about a second, once in a
process, and saves about a nanosecond for each value.
"""


def fused_add(n_values: int) -> Add | None:
    """Return what adds updates in one pass over each; None where numpy is as good.

    Args:
        n_values: of all updates together that are to be added.
    """
    if n_values < WORTH_COMPILING or importlib.util.find_spec("numba") is None:
        return None
    return _compiled()


@cache
def _compiled() -> Add:
    import numba  # noqa: PLC0415  takes half a second, and most hosts do without

    one = numba.njit("void(f8[::1], f8, f4[::1], f4[::1], b1)", nogil=True)(_add_one)
    four = numba.njit(
        "void(f8[::1], f8, f8, f8, f8, f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], b1)", nogil=True
    )(_add_four)

    def add(total: Delta, updates: Sequence[Trained], is_first: bool) -> None:  # noqa: FBT001  as Add
        shares, values, bases = zip(*updates, strict=True)
        if len(updates) == GROUP and all(base is bases[0] for base in bases):
            four(total, *shares, *values, bases[0], is_first)
            return
        for i, update in enumerate(updates):
            one(total, *update, is_first and i == 0)

    return add


def _add_one(total: Delta, share: float, values: Array, base: Array, is_first: bool) -> None:  # noqa: FBT001  compiled
    if is_first:
        for i in range(total.size):
            total[i] = (np.float64(values[i]) - np.float64(base[i])) * share
    else:
        for i in range(total.size):
            total[i] += (np.float64(values[i]) - np.float64(base[i])) * share


def _add_four(
    total: Delta,
    s0: float,
    s1: float,
    s2: float,
    s3: float,
    v0: Array,
    v1: Array,
    v2: Array,
    v3: Array,
    base: Array,
    is_first: bool,  # noqa: FBT001
) -> None:
    for i in range(total.size):
        before = np.float64(base[i])
        added = (np.float64(v0[i]) - before) * s0
        if not is_first:
            added += total[i]
        added += (np.float64(v1[i]) - before) * s1
        added += (np.float64(v2[i]) - before) * s2
        added += (np.float64(v3[i]) - before) * s3
        total[i] = added
