"""FedAvg: the weighted mean of the updates (McMahan et al., AISTATS 2017, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedfs.errors import TensorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedfs.aggregate.strategies.base import Delta
    from fedfs.learner import Array


@dataclass(frozen=True)
class FedAvg:
    """``base + sum(weight * delta)``; holds one delta at a time.

    For updates of the same base this is the weighted mean of the trained values. One update of
    weight 1 gives its trained values bit for bit wherever float64 holds ``trained - base`` exactly,
    which is so unless a value shrank to less than ``2**-28`` of its base; then the error is at most
    ``2**-53`` of the base. The sign of a zero is not kept.
    """

    def combine(
        self, name: str, base: Array, deltas: Iterable[Delta], weights: Sequence[float]
    ) -> Array:
        """Return the weighted mean; see :class:`~fedfs.aggregate.strategies.base.Strategy`."""
        total = base.astype(np.float64)
        for delta, weight in zip(deltas, weights, strict=True):
            if delta.shape != base.shape:  # numpy would broadcast
                raise TensorError(
                    f"update of tensor {name!r} has shape {delta.shape}, not {base.shape}"
                )
            total += delta * weight
        return total.astype(np.float32)
