"""FedMedian: coordinate-wise median (Yin et al. 2018, arXiv:1803.01498)."""

from dataclasses import dataclass, field

from fedfs.aggregation.strategies.fedtrimmedavg import FedTrimmedAvg


@dataclass(frozen=True, kw_only=True)
class FedMedian(FedTrimmedAvg):
    """In every element, the middle value, or the mean of the two in the middle.

    Weights are ignored: an attacker chooses its own number of cases.
    """

    beta: float = field(default=0.5, init=False, repr=False)

    def tolerates(self, n_updates: int) -> int:
        """Fewer than half; of a tensor, count the updates that have it."""
        return max(0, n_updates - 1) // 2
