"""FedAvgM: FedAvg with momentum at the server (Hsu et al. 2019, arXiv:1909.06335)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.protocol.ranges import POSITIVE, SHARE, option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedAvgM(FedAvg):
    """``momentum = server_momentum * momentum + mean``, then a step along the momentum.

    The defaults, Flower's, are plain FedAvg. In the long run an update moves the model by
    ``server_learning_rate / (1 - server_momentum)`` of itself: with momentum, lower the rate to
    keep this near 1 unless rounds are long. Short rounds do without: sites keep momentum already.
    """

    server_learning_rate: float = option(1.0, POSITIVE)
    server_momentum: float = option(0.0, SHARE)

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum, if there is any."""
        return ("momentum",) if self.server_momentum else ()

    def step(
        self,
        mean: Delta,
        state: Mapping[str, Delta],
        version: int,  # noqa: ARG002  nothing is corrected
    ) -> tuple[Delta, Mapping[str, Delta]]:
        """Return the step and the new momentum, both kept in units of a delta."""
        if not self.slots:
            return self.server_learning_rate * mean, {}
        momentum = self.server_momentum * state["momentum"] + mean
        return self.server_learning_rate * momentum, {"momentum": momentum}
