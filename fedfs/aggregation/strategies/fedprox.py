"""FedProx: FedAvg whose sites stay near what they started from (Li et al. 2020, arXiv:1812.06127).

The strategy is the sites': ``proximal_mu / 2 * ||w - w_base||^2`` joins the loss that each of them
trains with. At the aggregator it is FedAvg to the last bit.

The default 0.01 is a common choice and was not tuned; Flower's, 0, is FedAvg. On the demo's made-up
images (its small U-Net, three sites, 6 rounds of 30 iterations, one seed) 0, 0.01, 0.1 and 1 ended
at a mean pseudo Dice of 0.58, 0.59, 0.58 and 0.52. The updates of the second round were 1.9, 1.85,
1.5 and 0.44 away from their mean: 0.1 is felt, and 1 costs learning where rounds are so short.
"""

from dataclasses import dataclass

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.protocol.ranges import Range, option


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg of updates that were trained with a proximal term of weight ``proximal_mu``."""

    proximal_mu: float = option(0.01, Range(low=0))
