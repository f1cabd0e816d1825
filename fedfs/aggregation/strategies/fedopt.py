"""Base of FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, arXiv:2003.00295).

A step is about ``eta`` long in every element whose updates agree, however small they are, as long
as they are larger than ``tau``: both must suit the size of a network's weights and updates.

Defaults of ``eta`` are not Flower's (0.1, and 0.01 for FedYogi). Those ended at Dice 0 with a small
U-Net on hippocampus slices (three sites, 16 rounds of 40 iterations of SGD, one seed), where FedAvg
had 0.23, FedAdam 0.225 with 0.01, FedYogi 0.17 with 0.003, and FedAdagrad 0.11 with 0.01: none was
better than FedAvg with rounds so short, so try them beside it.

The second moment is kept as its square root, because float32 cannot hold the square of every
float32: an update of 1e20 is a nuisance, and must not end the study. State starts at zero.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.protocol.ranges import POSITIVE, SHARE, option
from fedfs.tensors.encodings.base import Delta

FIRST, ROOT = "first_moment", "second_moment_root"


@dataclass(frozen=True, kw_only=True)
class FedOpt(FedAvg, ABC):
    """``base + rate * first / (sqrt(second) + tau)``, elementwise.

    Options:
        eta: learning rate at the server.
        beta_1: how much of the first moment stays; 0 keeps none.
        tau: added to the root of the second moment; large values make it plain gradient descent.
    """

    eta: float = option(0.01, POSITIVE)
    beta_1: float = option(0.9, SHARE)
    tau: float = option(1e-3, POSITIVE)

    @property
    def slots(self) -> tuple[str, ...]:
        """The moments; the first only if any of it stays."""
        return (FIRST, ROOT) if self.beta_1 else (ROOT,)

    @abstractmethod
    def second_moment(self, old: Delta, squared: Delta) -> Delta:
        """Return the new second moment from the old one and the square of the mean update."""

    def rate(self, version: int) -> float:  # noqa: ARG002  FedAdam's depends on it
        """Return the learning rate for the step to ``version``."""
        return self.eta

    def step(
        self, mean: Delta, state: Mapping[str, Delta], version: int
    ) -> tuple[Delta, Mapping[str, Delta]]:
        """Return the step and the new moments."""
        root = np.sqrt(self.second_moment(np.square(state[ROOT]), np.square(mean)))
        new, first = {ROOT: root}, mean
        if self.beta_1:
            first = new[FIRST] = self.beta_1 * state[FIRST] + (1 - self.beta_1) * mean
        return self.rate(version) * first / (root + self.tau), new
