"""NormClipping: bound how far any one update can move the model.

Flat clipping of whole updates (McMahan et al. 2018, arXiv:1710.06963, section 3), which alone stops
many attacks that boost an update (Sun et al. 2019, arXiv:1911.07963).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedfs.aggregation.strategies.base import NO_STATE, Combined, Round, Strategy
from fedfs.aggregation.strategies.fedavg import checked_deltas
from fedfs.learner import Array
from fedfs.protocol.ranges import POSITIVE, check_options, option
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class NormClipping:
    """Scales updates down to an L2 norm of at most ``clip_norm``, then another strategy combines.

    The norm is over all shared tensors of an update together, so its direction stays. Look at the
    norms of honest updates before choosing: the length grows with the root of the iterations.
    """

    inner: Strategy
    clip_norm: float = option(math.nan, POSITIVE)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def slots(self) -> tuple[str, ...]:
        """Those of the inner strategy."""
        return self.inner.slots

    @property
    def stacks(self) -> bool:
        """As the inner strategy does."""
        return self.inner.stacks

    @property
    def proximal_mu(self) -> float:
        """The inner strategy's."""
        return self.inner.proximal_mu

    @property
    def fewest_updates(self) -> int:
        """As many as the inner strategy needs."""
        return self.inner.fewest_updates

    def tolerates(self, n_updates: int) -> int:
        """As many as the inner strategy: a bounded attack is an attack."""
        return self.inner.tolerates(n_updates)

    def begin(self, weights: Mapping[str, float], *, version: int) -> Round:
        """Begin an aggregation; see :class:`~fedfs.aggregation.strategies.base.Strategy`."""
        inner = self.inner.begin(weights, version=version)
        return ClippingRound(inner, sorted(weights), self.clip_norm)


class ClippingRound:
    """One pass for norms, then those of the inner round, which sees clipped deltas."""

    def __init__(self, inner: Round, updates: Sequence[str], clip_norm: float) -> None:
        self._inner = inner
        self._clip_norm = clip_norm
        self._squares = dict.fromkeys(updates, 0.0)
        self._scales: Mapping[str, float] | None = None

    @property
    def scanning(self) -> bool:
        """True while norms are still to be summed, or the inner round scans."""
        return self._scales is None or self._inner.scanning

    def scan(self, updates: Sequence[str], deltas: Iterable[Delta]) -> None:
        """Add the squared norms in one tensor, or let the inner round scan."""
        if self._scales is not None:
            self._inner.scan(updates, self._clipped(updates, deltas))
            return
        for name, delta in zip(updates, checked_deltas(updates, deltas), strict=True):
            self._squares[name] += float(np.square(delta).sum())

    def end_scan(self) -> None:
        """Fix how much each update is scaled down."""
        if self._scales is not None:
            self._inner.end_scan()
            return
        norms = {name: math.sqrt(square) for name, square in self._squares.items()}
        self._scales = {
            name: self._clip_norm / norm if norm > self._clip_norm else 1.0
            for name, norm in norms.items()
        }

    def combine(
        self,
        name: str,
        base: Array,
        updates: Sequence[str],
        deltas: Iterable[Delta],
        state: Mapping[str, Array] = NO_STATE,
    ) -> Combined:
        """Return the next value and state; see :meth:`~.base.Round.combine`."""
        if self.scanning:
            raise RuntimeError("combine before the scan is complete")
        return self._inner.combine(name, base, updates, self._clipped(updates, deltas), state)

    def _clipped(self, updates: Sequence[str], deltas: Iterable[Delta]) -> Iterator[Delta]:
        scales = self._scales or {}
        for name, delta in zip(updates, deltas, strict=True):
            yield delta if scales[name] == 1 else delta * scales[name]
