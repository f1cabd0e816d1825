"""Server-side strategies, one per file, under the names that Flower's users expect."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from fedfs.aggregate.strategies.base import Delta, Strategy
from fedfs.aggregate.strategies.fedavg import FedAvg
from fedfs.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["STRATEGIES", "Delta", "FedAvg", "Strategy", "by_name"]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType({"fedavg": FedAvg})
"""Name in lower case -> class; options are its keyword arguments, all of them numbers."""


def by_name(name: str, options: Mapping[str, float] | None = None) -> Strategy:
    """Return the strategy that a charter names, upper or lower case.

    Raises:
        UserError: no such strategy, or one of its options does not exist; lists the known ones.
    """
    make = STRATEGIES.get(name.lower())
    if make is None:
        known = ", ".join(sorted(STRATEGIES))
        raise UserError(f"unknown strategy {name!r}", hint=f"known are: {known}")
    known_options = sorted(getattr(make, "__dataclass_fields__", {}))
    unknown = sorted(set(options or {}) - set(known_options))
    if unknown:
        raise UserError(
            f"strategy {name!r} has no option {unknown[0]!r}",
            hint=f"its options are: {', '.join(known_options) or 'none'}",
        )
    return make(**(options or {}))
