"""MultiKrum: the mean of the updates that lie closest to others (Blanchard et al., NeurIPS 2017).

Also https://arxiv.org/abs/1703.02757. Asymmetric nets are an extension of the paper's rule:

 * The distance of two updates is over the tensors that both have, scaled as if they had as many
   elements in common as any two have; updates that share none are infinitely far apart.
 * Of a tensor that no selected update has, the update that scores best of those with it is taken.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedfs.aggregation.strategies.base import Round
from fedfs.aggregation.strategies.fedavg import FedAvg, FedAvgRound, checked_deltas
from fedfs.errors import StudyError
from fedfs.protocol.ranges import AT_LEAST_ONE, COUNT, option
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class MultiKrum(FedAvg):
    """Weighted mean of the updates with the smallest scores.

    An update's score is the sum of its squared distances to its ``n - num_malicious_nodes - 2``
    nearest others; equal scores are settled by name, as in the paper. What is selected is an update
    near honest ones, not necessarily an honest one.

    Options:
        num_malicious_nodes: attackers to tolerate, f; needs at least 2 f + 3 updates unless 0.
        num_nodes_to_select: updates to average, at most n - f of them are.
    """

    num_malicious_nodes: float = option(0, COUNT)
    num_nodes_to_select: float = option(1, AT_LEAST_ONE)

    @property
    def stacks(self) -> bool:
        """Distances are between all pairs of updates."""
        return True

    @property
    def fewest_updates(self) -> int:
        """As many as it takes to tolerate the attackers that the option names."""
        f = int(self.num_malicious_nodes)
        return 2 * f + 3 if f else 1

    def tolerates(self, n_updates: int) -> int:
        """As many as the option says, if there are updates enough."""
        return int(self.num_malicious_nodes) if n_updates >= self.fewest_updates else 0

    def begin(self, weights: Mapping[str, float], *, version: int) -> Round:
        """Begin an aggregation; see :class:`~fedfs.aggregation.strategies.base.Strategy`."""
        n, f = sum(weight > 0 for weight in weights.values()), int(self.num_malicious_nodes)
        if n < self.fewest_updates:
            raise StudyError(
                f"{type(self).__name__} cannot tolerate {f} attackers among {n} updates.",
                hint=f"it needs {self.fewest_updates} updates: more sites, or a smaller "
                "num_malicious_nodes",
            )
        return KrumRound(self, weights, version)

    def ranking(self, names: Sequence[str], squared_distances: Delta) -> list[str]:
        """Return names by ascending score; of equal ones the first name is first.

        Args:
            names: of the updates, n, ascending.
            squared_distances: n by n, symmetric, may be infinite.
        """
        n_closest = max(1, len(names) - int(self.num_malicious_nodes) - 2)
        scores = {}
        for i, name in enumerate(names):
            others = sorted(np.delete(squared_distances[i], i).tolist())
            scores[name] = math.fsum(others[:n_closest])
        return sorted(names, key=scores.__getitem__)


class KrumRound(FedAvgRound):
    """One pass for distances, then means over what was selected; keeps n by n numbers."""

    def __init__(self, strategy: MultiKrum, weights: Mapping[str, float], version: int) -> None:
        super().__init__(strategy, weights, version)
        self._krum = strategy
        self._names = [name for name, weight in self._weights.items() if weight > 0]
        self._index = {name: i for i, name in enumerate(self._names)}
        self._sums = np.zeros((len(self._names),) * 2)
        self._counts = np.zeros((len(self._names),) * 2)
        self._ranking: list[str] | None = None

    @property
    def scanning(self) -> bool:
        """True while distances are still to be summed."""
        return self._ranking is None

    def scan(self, updates: Sequence[str], deltas: Iterable[Delta]) -> None:
        """Add the squared distances in one tensor.

        Differences, not scalar products: those cancel, and BLAS sums differently on each host.
        """
        if not self.scanning:
            raise RuntimeError("the scan is complete")
        rows = [
            (self._index[name], delta.ravel())
            for name, delta in zip(updates, checked_deltas(updates, deltas), strict=True)
            if name in self._index
        ]
        for k, (i, first) in enumerate(rows):
            for j, second in rows[:k]:
                difference = first - second
                self._sums[i, j] += np.square(difference, out=difference).sum()
                self._counts[i, j] += difference.size

    def end_scan(self) -> None:
        """Rank the updates."""
        sums, counts = self._sums + self._sums.T, self._counts + self._counts.T
        # Scaled to the largest overlap and not to one element: where all nets are equal the factor
        # is exactly 1, and equal scores stay equal.
        factors = np.full(sums.shape, math.inf)
        np.divide(counts.max(initial=0), counts, out=factors, where=counts > 0)
        distances = np.where(counts > 0, sums, 1) * factors
        self._ranking = self._krum.ranking(self._names, distances)

    def shares(self, updates: Sequence[str]) -> list[float]:
        """Return shares of 0 for updates that were not selected."""
        ranking = self._ranking or []
        n_most = len(ranking) - int(self._krum.num_malicious_nodes)
        selected = set(ranking[: min(int(self._krum.num_nodes_to_select), n_most)])
        if selected.isdisjoint(updates):
            selected = {next((name for name in ranking if name in updates), "")}
        kept = [name for name in updates if name in selected]
        shares = dict(zip(kept, super().shares(kept), strict=True))
        return [shares.get(name, 0.0) for name in updates]
