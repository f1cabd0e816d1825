"""Parts of messages that say how a number is distributed, or adds up, over a site's cases.

They describe cases together: none of them names a case, or holds its smallest or largest number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fedfs.errors import MalformedError
from fedfs.protocol.messages.base import Extra
from fedfs.protocol.ranges import Range
from fedfs.protocol.values import Count, Dice, Share, SiteName, VariantName

Measured = Annotated[float, Range(low=-1e10, high=1e10)]
Spread = Annotated[float, Range(low=0, high=1e10)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Distribution of one metric over the cases in which it is defined.

    Attributes:
        n: cases.
        mean: over the cases.
        sd: standard deviation of a sample (n - 1); None of fewer than two cases.
        quartiles: 25 %, 50 %, 75 %, interpolated linearly; empty of so few cases that they would
            show single ones.
    """

    n: Count
    mean: Measured
    sd: Spread | None
    quartiles: tuple[Measured, ...]
    extra: Extra = field(default_factory=dict)

    def check(self, about: str) -> None:
        """Check what types do not say.

        Raises:
            MalformedError: quartiles are not three in ascending order, or there is no case.
        """
        ascending = tuple(sorted(self.quartiles)) == self.quartiles
        if self.n < 1 or len(self.quartiles) not in {0, 3} or not ascending:
            raise MalformedError("is impossible", about=about)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """One model minus another, on the same cases of one site.

    Attributes:
        n: cases in which both are defined.
        n_patients: patients that these cases are of, which the interval takes for independent.
        mean: of the differences.
        low, high: 95 % interval of the mean: bias-corrected and accelerated bootstrap over
            patients; None of fewer than five patients.
        p: of Wilcoxon's signed-rank test over patients, two-sided; likewise.
    """

    n: Count
    n_patients: Count
    mean: Measured
    low: Measured | None
    high: Measured | None
    p: Share | None
    extra: Extra = field(default_factory=dict)

    def check(self, about: str) -> None:
        """Check what types do not say.

        Raises:
            MalformedError: there is no case, or the interval ends before it begins.
        """
        if not 1 <= self.n_patients <= self.n or not _is_interval(self.low, self.high):
            raise MalformedError("is impossible", about=about)


@dataclass(frozen=True, kw_only=True)
class ChosenModel:
    """The model that a site would choose among those that it has scored, by their mean Dice.

    Its Dice is estimated on cases that did not choose: of each half of the cases, with the model
    that is best on the other half.

    Attributes:
        variant: chosen on all cases.
        among: variants that it was chosen from.
        n: cases.
        dice: mean over the cases, as above.
        low, high: its 95 % interval, as of :class:`PairedDifference`.
    """

    variant: VariantName
    among: tuple[VariantName, ...]
    n: Count
    dice: Dice
    low: Measured | None
    high: Measured | None
    extra: Extra = field(default_factory=dict)

    def check(self, about: str) -> None:
        """Check what types do not say.

        Raises:
            MalformedError: it was chosen from others, or the interval ends before it begins.
        """
        if self.variant not in self.among or not _is_interval(self.low, self.high):
            raise MalformedError("is impossible", about=about)


def _is_interval(low: float | None, high: float | None) -> bool:
    """Return whether both ends are in order, or neither is known."""
    return low is high is None or (low is not None and high is not None and low <= high)


Summaries = Mapping[str, Summary]
"""Metric -> distribution; see :data:`fedfs.learner.METRICS`."""


@dataclass(frozen=True)
class DiceSum:
    """Sum of a class's Dice over the cases in whose prediction or reference it occurs."""

    total: float
    n: int

    @property
    def mean(self) -> float:
        """Mean Dice; NaN if the class never occurs."""
        return self.total / self.n if self.n else math.nan


@dataclass(frozen=True, kw_only=True)
class ScoreTotal:
    """Scores of one model over the cases of several sites, of which nobody sees those of one site.

    Attributes:
        sites: whose scores are in it, ascending.
        n_cases: that were scored.
        mean: sum over cases of the site's mean over classes.
        classes: class -> sum over the cases in which it occurs; only classes that occur.
        fault: why there is no total though it was asked for; "" if there is one.
    """

    sites: tuple[SiteName, ...]
    n_cases: Count = 0
    mean: DiceSum = DiceSum(0.0, 0)
    classes: Mapping[str, DiceSum] = field(default_factory=dict)
    fault: str = ""
    extra: Extra = field(default_factory=dict)

    def check(self) -> None:
        """Check what types do not say.

        Raises:
            MalformedError: a sum is of more cases than there are, or better than perfect.
        """
        for one in (self.mean, *self.classes.values()):
            if not 0 <= one.n <= self.n_cases or not 0 <= one.total <= one.n:
                raise MalformedError("is impossible", about="a total of scores")


Totals = Mapping[VariantName, ScoreTotal]
"""Variant of an evaluation -> total over sites."""
