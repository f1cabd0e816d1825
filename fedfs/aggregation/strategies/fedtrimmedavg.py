"""FedTrimmedAvg: coordinate-wise trimmed mean (Yin et al. 2018, arXiv:1803.01498)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.protocol.ranges import LESS_THAN_HALF, option
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedTrimmedAvg(FedAvg):
    """In every element, the mean without the ``int(beta * n)`` lowest and as many highest values.

    Weights are ignored: an attacker chooses its own number of cases. Beware of small studies: the
    default cuts nothing below 5 updates, and tolerates no attacker then.
    """

    beta: float = option(0.2, LESS_THAN_HALF)

    @property
    def stacks(self) -> bool:
        """All values of an element are sorted."""
        return True

    def tolerates(self, n_updates: int) -> int:
        """As many as are cut at each end; of a tensor, count the updates that have it."""
        return int(self.beta * n_updates)

    def mean(self, shares: Sequence[float], deltas: Iterable[Delta]) -> Delta:
        """Return the trimmed mean, which lies between the values that were not cut."""
        n_cut = self.tolerates(len(shares))
        values = np.stack(list(deltas), axis=-1)  # values of an element lie together: sorts faster
        values.sort(axis=-1)  # so that the order of the deltas changes no bit
        return np.asarray(values[..., n_cut : values.shape[-1] - n_cut].mean(axis=-1))
