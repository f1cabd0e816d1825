"""The axis of bars that show intervals in a table. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_MOST_STEPS = 10


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers that all bars of a column share."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Return where a number stands, as a percentage of the width; at an end if it is beyond."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def axis(values: Iterable[float | None], *, low: float, high: float, zero: bool = False) -> Axis:
    """Return an axis with round ends that holds all numbers which are known.

    >>> axis([0.71, 0.864, None], low=0, high=1)
    Axis(low=0.7, high=0.88)

    Args:
        values: to be shown.
        low: where an axis has to begin; what is below is shown there.
        high: where it has to end, likewise.
        zero: hold zero, too.
    """
    known = [min(max(value, low), high) for value in values if value is not None]
    if zero:
        known.append(0.0)
    if not known:
        return Axis(low, high)
    first, last = min(known), max(known)
    step = next((s for s in _STEPS if last - first <= _MOST_STEPS * s), 1.0)
    ends = math.floor(first / step + 1e-9) * step, math.ceil(last / step - 1e-9) * step
    if ends[0] == ends[1]:
        ends = ends[0] - step, ends[1] + step
    return Axis(*(round(min(max(end, low), high), 3) for end in ends))
