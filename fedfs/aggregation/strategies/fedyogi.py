"""FedYogi: Yogi at the server (Reddi et al. 2021, arXiv:2003.00295, algorithm 2)."""

from dataclasses import dataclass

import numpy as np

from fedfs.aggregation.strategies.fedopt import FedOpt
from fedfs.protocol.ranges import POSITIVE, SHARE, option
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedYogi(FedOpt):
    """The second moment goes towards the square of the mean by a share of that square."""

    eta: float = option(0.003, POSITIVE)
    beta_2: float = option(0.99, SHARE)

    def second_moment(self, old: Delta, squared: Delta) -> Delta:
        """Return the second moment, never below 0, moved by ``(1 - beta_2) * squared``."""
        return old - (1 - self.beta_2) * squared * np.sign(old - squared)
