"""What a strategy is: deltas of one tensor in, the tensor's next global value out.

Rules:
 * One tensor at a time, so that memory is that of the largest tensor and not of the model. A
   strategy that can consume the deltas one by one holds one of them.
 * Deltas come sorted by site, so that floating-point sums are the same wherever they are formed.
 * Accumulation is in float64; the result is rounded to float32 once, at the end.
 * No strategy checks values: updates were found finite before, and the sum of finite float32
   updates with weights that sum to 1 is finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedfs.learner import Array

Delta = npt.NDArray[np.float64]
"""Trained minus base, both float32, formed in float64."""


class Strategy(Protocol):
    """A rule that makes the next global model from updates."""

    def combine(
        self, name: str, base: Array, deltas: Iterable[Delta], weights: Sequence[float]
    ) -> Array:
        """Return the next global value of the tensor ``name``.

        Args:
            name: canonical name of the tensor.
            base: its current global value, float32, any shape.
            deltas: one per update, shaped like ``base``, sorted by site; may be an iterator.
            weights: one per update, at least 0, summing to 1.

        Raises:
            TensorError: a delta has another shape than ``base``.
        """
