"""GeometricMedian: the point from which the weighted sum of distances to all updates is least.

Pillutla, Kakade and Harchaoui, *Robust Aggregation for Federated Learning*, IEEE Transactions on
Signal Processing 70 (2022) 1142-1154, arXiv:1912.13445, by the smoothed Weiszfeld algorithm.

A mean follows one update wherever it goes. The geometric median stays near the others as long as
they have more than half of all weight. FedMedian does that for every element apart; this takes an
update as a whole, and what it makes of honest updates is a weighted mean of them.

The median is a mean of the updates, of weights that depend on their distances only. So updates are
read once, for the distances of all pairs, and the algorithm then works on as many numbers as there
are updates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfs.aggregation.strategies import (
    POSITIVE,
    Delta,
    FedAvg,
    FedAvgRound,
    Round,
    checked_deltas,
    option,
)

_MOST_STEPS = 1000
_SMALL = 1e-12


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(FedAvg):
    """Weighted mean of the updates that is their geometric median.

    Options:
        smoothing: distances below this count as this; in the paper 1e-6. In units of the norm of
            an update.
    """

    smoothing: float = option(1e-6, POSITIVE)

    @property
    def stacks(self) -> bool:
        """Distances are between all pairs of updates."""
        return True

    def tolerates(self, n_updates: int) -> int:
        """Fewer than half, if weights are equal (``--weighting uniform``)."""
        return max(0, n_updates - 1) // 2

    def begin(self, weights: Mapping[str, float], *, version: int) -> Round:
        """Begin an aggregation; see :class:`fedfs.aggregation.strategies.Strategy`."""
        return GeometricMedianRound(self, weights, version)


class GeometricMedianRound(FedAvgRound):
    """One pass for distances, then a mean of other weights; keeps n by n numbers.

    Where networks differ (mode ``asym``), distances are over the tensors that all updates have.
    """

    def __init__(
        self, strategy: GeometricMedian, weights: Mapping[str, float], version: int
    ) -> None:
        super().__init__(strategy, weights, version)
        self._smoothing = strategy.smoothing
        self._given = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
        self._index = {name: i for i, name in enumerate(self._given)}
        self._squares = np.zeros((len(self._given),) * 2)
        self._found: Mapping[str, float] | None = None

    @property
    def scanning(self) -> bool:
        """Whether distances are still to be summed."""
        return self._found is None

    def scan(self, updates: Sequence[str], deltas: Iterable[Delta]) -> None:
        """Add the squared distances in one tensor."""
        rows = [
            (self._index[name], delta)
            for name, delta in zip(updates, checked_deltas(updates, deltas), strict=True)
            if name in self._index
        ]
        if len(rows) < len(self._index):
            return
        for (i, first), (j, second) in itertools.combinations(rows, 2):
            self._squares[i, j] += np.square(first - second).sum()

    def end_scan(self) -> None:
        """Find the weights of the median."""
        squares = self._squares + self._squares.T
        found = weiszfeld(list(self._given.values()), squares, self._smoothing)
        self._found = dict(zip(self._given, found, strict=True))

    def shares(self, updates: Sequence[str]) -> list[float]:
        """Return the shares of the median, among the updates that have a tensor."""
        found = self._found or {}
        weights = [found.get(name, 0.0) for name in updates]
        total = math.fsum(weights)
        return [weight / total for weight in weights] if total > 0 else weights


def weiszfeld(
    weights: Sequence[float], squares: npt.NDArray[np.float64], smoothing: float
) -> list[float]:
    """Return the shares, which sum to 1, that make the geometric median a mean of the points.

    Args:
        weights: of n points, above 0.
        squares: n by n, squared distances of the points.
        smoothing: distances below this count as this.
    """
    given = np.array(weights) / math.fsum(weights) if weights else np.zeros(0)
    shares = given
    for _ in range(_MOST_STEPS):
        # Squared distance of point j from the mean: sum_i s_i d_ij - sum_ik s_i s_k d_ik / 2.
        to_each = (squares * shares).sum(axis=1)
        from_mean = to_each - (to_each * shares).sum() / 2
        distances = np.sqrt(np.maximum(from_mean, 0))
        raw = given / np.maximum(distances, smoothing)
        before, shares = shares, raw / raw.sum()
        if np.abs(shares - before).max(initial=0) < _SMALL:
            break
    return shares.tolist()
