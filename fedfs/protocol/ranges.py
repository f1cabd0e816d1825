"""Ranges of numbers, which options are checked against."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``; an open end is not itself in the range."""

    low: float
    high: float = math.inf
    low_is_open: bool = False
    high_is_open: bool = True
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = value > self.low if self.low_is_open else value >= self.low
        below = value < self.high if self.high_is_open else value <= self.high
        return above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.low_is_open else 'of at least'} {self.low:g}"
        if math.isinf(self.high):
            return f"{kind} {low}"
        return f"{kind} {low} and {'below' if self.high_is_open else 'at most'} {self.high:g}"
