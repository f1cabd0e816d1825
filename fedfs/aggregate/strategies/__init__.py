"""Server-side strategies, one per file, under the names that Flower's users expect.

Every strategy also takes the option ``clip_norm``, which wraps it in :class:`NormClipping`.
"""

from __future__ import annotations

from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedfs.aggregate.strategies.base import NO_STATE, Combined, Delta, Round, Strategy
from fedfs.aggregate.strategies.fedadagrad import FedAdagrad
from fedfs.aggregate.strategies.fedadam import FedAdam
from fedfs.aggregate.strategies.fedavg import FedAvg
from fedfs.aggregate.strategies.fedavgm import FedAvgM
from fedfs.aggregate.strategies.fedmedian import FedMedian
from fedfs.aggregate.strategies.fedprox import FedProx
from fedfs.aggregate.strategies.fedtrimmedavg import FedTrimmedAvg
from fedfs.aggregate.strategies.fedyogi import FedYogi
from fedfs.aggregate.strategies.krum import Krum
from fedfs.aggregate.strategies.multikrum import MultiKrum
from fedfs.aggregate.strategies.nesterov import Nesterov
from fedfs.aggregate.strategies.normclipping import NormClipping
from fedfs.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NO_STATE",
    "STRATEGIES",
    "Combined",
    "Delta",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedMedian",
    "FedProx",
    "FedTrimmedAvg",
    "FedYogi",
    "Krum",
    "MultiKrum",
    "Nesterov",
    "NormClipping",
    "Round",
    "Strategy",
    "by_name",
]

STRATEGIES: Mapping[str, type[FedAvg]] = MappingProxyType(
    {
        cls.__name__.lower(): cls
        for cls in (
            FedAdagrad,
            FedAdam,
            FedAvg,
            FedAvgM,
            FedMedian,
            FedProx,
            FedTrimmedAvg,
            FedYogi,
            Krum,
            MultiKrum,
            Nesterov,
        )
    }
)
"""Name in lower case -> class; options are its keyword arguments, all of them numbers."""

CLIP_NORM = "clip_norm"


def by_name(name: str, options: Mapping[str, float] | None = None) -> Strategy:
    """Return the strategy that a charter names, upper or lower case.

    Raises:
        UserError: no such strategy; or one of its options does not exist, lists the known ones, or
            is out of its range.
    """
    cls = STRATEGIES.get(name.lower())
    if cls is None:
        known = ", ".join(sorted(other.__name__ for other in STRATEGIES.values()))
        raise UserError(
            f"unknown strategy {name!r}", hint=f"known are: {known}; any of them takes {CLIP_NORM}"
        )
    own = dict(options or {})
    clip_norm = own.pop(CLIP_NORM, None)
    known_options = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(own) - set(known_options))
    if unknown:
        raise UserError(
            f"strategy {name!r} has no option {unknown[0]!r}",
            hint=f"its options are: {', '.join([*known_options, CLIP_NORM])}",
        )
    strategy = cls(**own)
    return strategy if clip_norm is None else NormClipping(inner=strategy, clip_norm=clip_norm)
