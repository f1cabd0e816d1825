"""Options of strategies: plain numbers, each with its range."""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING

from fedfs.errors import UserError
from fedfs.protocol.ranges import Range

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


POSITIVE = Range(low=0, low_is_open=True)
SHARE = Range(low=0, high=1)
LESS_THAN_HALF = Range(low=0, high=0.5)
COUNT = Range(low=0, whole=True)
AT_LEAST_ONE = Range(low=1, whole=True)


def option(default: float, allowed: Range) -> float:
    """Return the field of a dataclass for an option with a default and a range."""
    return field(default=default, metadata={"range": allowed})


def check_options(strategy: DataclassInstance) -> None:
    """Check every option of a strategy.

    Raises:
        UserError: one is not a number of its range; names both.
    """
    for item in fields(strategy):
        allowed, value = item.metadata.get("range"), getattr(strategy, item.name)
        if allowed is not None and value not in allowed:
            raise UserError(
                f"option {item.name!r} of {type(strategy).__name__} is {value!r}",
                hint=f"it must be {allowed}",
            )
