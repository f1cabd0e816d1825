"""Server-side strategies, one per file, under the names that Flower's users expect.

Every strategy also takes the option ``clip_norm``, which wraps it in :class:`NormClipping`.

A package may bring another one, see :mod:`fedfs.aggregation.strategies.installed`. What it may
build upon is what is imported from here: strategies to derive from, ``FedAvgRound``,
``checked_deltas``, ``option`` with its ranges, and the types of ``base.py``, where the rules are.
"""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from fedfs.aggregation.strategies import installed
from fedfs.aggregation.strategies.base import NO_STATE, Combined, Round, Strategy
from fedfs.aggregation.strategies.fedadagrad import FedAdagrad
from fedfs.aggregation.strategies.fedadam import FedAdam
from fedfs.aggregation.strategies.fedavg import FedAvg, FedAvgRound, checked_deltas
from fedfs.aggregation.strategies.fedavgm import FedAvgM, Nesterov
from fedfs.aggregation.strategies.fedmedian import FedMedian
from fedfs.aggregation.strategies.fedprox import FedProx
from fedfs.aggregation.strategies.fedtrimmedavg import FedTrimmedAvg
from fedfs.aggregation.strategies.fedyogi import FedYogi
from fedfs.aggregation.strategies.krum import Krum
from fedfs.aggregation.strategies.multikrum import MultiKrum
from fedfs.aggregation.strategies.normclipping import NormClipping
from fedfs.errors import UserError
from fedfs.protocol.ranges import (
    AT_LEAST_ONE,
    COUNT,
    LESS_THAN_HALF,
    POSITIVE,
    SHARE,
    Range,
    option,
)
from fedfs.tensors.encodings.base import Delta

__all__ = [
    "AT_LEAST_ONE",
    "COUNT",
    "LESS_THAN_HALF",
    "NO_STATE",
    "POSITIVE",
    "SHARE",
    "STRATEGIES",
    "Combined",
    "Delta",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedAvgRound",
    "FedMedian",
    "FedProx",
    "FedTrimmedAvg",
    "FedYogi",
    "Krum",
    "MultiKrum",
    "Nesterov",
    "NormClipping",
    "Range",
    "Round",
    "Strategy",
    "by_name",
    "checked_deltas",
    "ends_with_mean",
    "option",
    "package_of",
    "proximal_mu",
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

    A name that fedfs has means fedfs's own, whatever is installed.

    Raises:
        UserError: no such strategy; or one of its options does not exist, lists the known ones, or
            is out of its range.
        SetupError: the package that has it is broken.

    >>> by_name("fedavgm", {"server_momentum": 0.9}).slots
    ('momentum',)
    """
    cls = STRATEGIES.get(name.lower()) or installed.find(name)
    if cls is None:
        known = sorted(other.__name__ for other in STRATEGIES.values())
        others = [other for other in installed.names() if other.lower() not in STRATEGIES]
        raise UserError(
            f"Unknown strategy {name!r}.",
            hint=f"known are: {', '.join(known)}; from packages installed here: "
            f"{', '.join(others) or 'none'}; any of them takes {CLIP_NORM}",
        )
    own = dict(options or {})
    clip_norm = own.pop(CLIP_NORM, None)
    known_options = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(own) - set(known_options))
    if unknown:
        raise UserError(
            f"Strategy {name!r} has no option {unknown[0]!r}.",
            hint=f"its options are: {', '.join([*known_options, CLIP_NORM])}",
        )
    strategy = cls(**own)
    if name.lower() not in STRATEGIES and strategy.proximal_mu != proximal_mu(name, own):
        raise UserError(
            f"Strategy {name!r} has a proximal term, {strategy.proximal_mu:g}, that no site knows.",
            hint=f"give it as an option: proximal_mu={strategy.proximal_mu:g}",
        )
    return strategy if clip_norm is None else NormClipping(inner=strategy, clip_norm=clip_norm)


def proximal_mu(name: str, options: Mapping[str, float]) -> float:
    """Return how strongly sites are held to their base, as the charter alone says it.

    Sites need no package that another strategy than fedfs's own comes from.

    Raises:
        UserError: it is out of its range.
    """
    if name.lower() in STRATEGIES:
        return by_name(name, options).proximal_mu
    return FedProx(proximal_mu=options.get("proximal_mu", 0.0)).proximal_mu


def ends_with_mean(strategy: Strategy) -> bool:
    """Return whether a version has the strategy's mean itself, and no step along it.

    >>> ends_with_mean(by_name("FedMedian")), ends_with_mean(by_name("FedAdam"))
    (True, False)
    """
    inner = strategy.inner if isinstance(strategy, NormClipping) else strategy
    return isinstance(inner, FedAvg) and type(inner).step is FedAvg.step


def takes_mean_alone(strategy: Strategy) -> bool:
    """Return whether a strategy needs no single update: the weighted mean of all is enough.

    >>> takes_mean_alone(by_name("FedAdam")), takes_mean_alone(by_name("FedMedian"))
    (True, False)
    """
    if not isinstance(strategy, FedAvg):
        return False
    own = type(strategy)
    return own.mean is FedAvg.mean and own.begin is FedAvg.begin


def package_of(name: str) -> dict[str, str]:
    """Return the package that a strategy comes from, and its version; empty for fedfs's own."""
    return {} if name.lower() in STRATEGIES else installed.package_of(name)
