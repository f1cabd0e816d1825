"""Ranges of numbers, and options that are checked against them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from fedfs.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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


def check_minutes(minutes: float | None) -> float | None:
    """Return a number of minutes that a round may take, or None.

    Raises:
        UserError: it makes no sense.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"Local minutes {minutes} are not above 0.")
    return minutes


def check_learning_rate(rate: float | None) -> float | None:
    """Return a learning rate that a schedule may begin with, or None for the trainer's own.

    Raises:
        UserError: it makes no sense.
    """
    if rate is not None and rate not in LEARNING_RATE:
        raise UserError(
            f"The learning rate {rate:g} is not above 0 and at most 1.",
            hint="default: the trainer's own; nnU-Net's begins with 0.01",
        )
    return rate


POSITIVE = Range(low=0, low_is_open=True)
SHARE = Range(low=0, high=1)
LEARNING_RATE = Range(low=0, high=1, low_is_open=True, high_is_open=False)
LESS_THAN_HALF = Range(low=0, high=0.5)
COUNT = Range(low=0, whole=True)
AT_LEAST_ONE = Range(low=1, whole=True)


def option(default: float, allowed: Range) -> float:
    """Return the field of a dataclass for an option with a default and a range."""
    return field(default=default, metadata={"range": allowed})


def check_options(options: DataclassInstance) -> None:
    """Check every option of a strategy or an encoding.

    Raises:
        UserError: one is not a number of its range; names both.
    """
    for item in fields(options):
        allowed, value = item.metadata.get("range"), getattr(options, item.name)
        if allowed is not None and value not in allowed:
            raise UserError(
                f"Option {item.name!r} of {type(options).__name__} is {value!r}.",
                hint=f"it must be {allowed}",
            )
