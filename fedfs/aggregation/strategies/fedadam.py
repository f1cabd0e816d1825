"""FedAdam: Adam at the server (Reddi et al. 2021, arXiv:2003.00295, algorithm 2)."""

import math
from dataclasses import dataclass
from itertools import repeat

from fedfs.aggregation.strategies.fedopt import FedOpt
from fedfs.protocol.ranges import SHARE, option
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedAdam(FedOpt):
    """Both moments are running means, and the learning rate corrects their start from zero.

    The correction is Flower's: that of Kingma and Ba (arXiv:1412.6980, section 2.1) for one step
    more than were made, which makes the first step 0.74 as long as theirs. A tensor that joins a
    study late is corrected as if it had been there.
    """

    beta_2: float = option(0.99, SHARE)

    def second_moment(self, old: Delta, squared: Delta) -> Delta:
        """Return the running mean of the squares."""
        return self.beta_2 * old + (1 - self.beta_2) * squared

    def rate(self, version: int) -> float:
        """Return the corrected learning rate."""
        first, second = (1 - _power(b, version + 1) for b in (self.beta_1, self.beta_2))
        return self.eta * math.sqrt(second) / first


def _power(base: float, exponent: int) -> float:
    # pow() may differ in the last bit from host to host, multiplication does not.
    return math.prod(repeat(base, exponent))
