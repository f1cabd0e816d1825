"""FedMedian: coordinate-wise median (Yin et al. 2018, arXiv:1803.01498)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.aggregation.strategies.fedtrimmedavg import trimmed_mean
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedMedian(FedAvg):
    """In every element, the middle value, or the mean of the two in the middle.

    Weights are ignored: an attacker chooses its own number of cases.
    """

    @property
    def stacks(self) -> bool:
        """All values of an element are sorted."""
        return True

    def tolerates(self, n_updates: int) -> int:
        """Fewer than half; of a tensor, count the updates that have it."""
        return max(0, n_updates - 1) // 2

    def mean(self, shares: Sequence[float], deltas: Iterable[Delta]) -> Delta:
        """Return the median."""
        return trimmed_mean(deltas, self.tolerates(len(shares)))
