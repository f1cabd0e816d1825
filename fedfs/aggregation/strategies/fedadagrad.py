"""FedAdagrad: Adagrad at the server (Reddi et al. 2021, arXiv:2003.00295, algorithm 2)."""

from dataclasses import dataclass, field

from fedfs.aggregation.strategies.fedopt import FedOpt
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(FedOpt):
    """The second moment is the sum of all squares, so steps become smaller; no first moment."""

    beta_1: float = field(default=0, init=False)

    def second_moment(self, old: Delta, squared: Delta) -> Delta:
        """Return the sum of the squares."""
        return old + squared
