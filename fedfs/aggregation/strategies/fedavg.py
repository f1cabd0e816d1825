"""FedAvg: the weighted mean of the updates (McMahan et al., AISTATS 2017, algorithm 1).

The other strategies are made of it: they select or scale updates, put another mean in place of the
weighted one, or make another step along it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedfs.aggregation.strategies.base import NO_STATE, Borrowed, Combined, Round, Summable
from fedfs.errors import StudyError, TensorError
from fedfs.learner import Array
from fedfs.protocol.ranges import check_options
from fedfs.tensors.encodings.base import Delta


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """``base + sum(weight * delta)``; holds one delta at a time.

    For updates of the same base this is the weighted mean of the trained values. One update alone
    gives its trained values bit for bit wherever float64 holds ``trained - base`` exactly, which
    is so unless a value shrank to less than ``2**-28`` of its base; then the error is at most
    ``2**-53`` of the base. The sign of a zero is not kept.
    """

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def slots(self) -> tuple[str, ...]:
        """None: a mean has no memory."""
        return ()

    @property
    def stacks(self) -> bool:
        """Deltas are added one by one."""
        return False

    @property
    def proximal_mu(self) -> float:
        """Sites train freely."""
        return 0.0

    @property
    def fewest_updates(self) -> int:
        """One is a mean."""
        return 1

    def tolerates(self, n_updates: int) -> int:  # noqa: ARG002  others depend on it
        """None: one update can move a mean anywhere."""
        return 0

    def begin(self, weights: Mapping[str, float], *, version: int) -> Round:
        """Begin an aggregation; see :class:`~fedfs.aggregation.strategies.base.Strategy`."""
        return FedAvgRound(self, weights, version)

    def mean(self, shares: Sequence[float], deltas: Iterable[Delta]) -> Delta:
        """Return the mean of at least one delta; ``shares`` are above 0 and sum to 1."""
        if isinstance(deltas, Summable):
            return deltas.weighted_sum(shares)
        total: Delta | None = None
        part: Delta | None = None
        for share, delta in zip(shares, deltas, strict=True):
            if total is None:
                total = delta * share
                part = None if isinstance(deltas, Borrowed) else np.empty_like(total)
            else:
                total += np.multiply(delta, share, out=delta if part is None else part)
        if total is None:
            raise ValueError("the mean of no delta")
        return total

    def step(
        self,
        mean: Delta,
        state: Mapping[str, Delta],  # noqa: ARG002  others have one
        version: int,  # noqa: ARG002  others count
    ) -> tuple[Delta, Mapping[str, Delta]]:
        """Return what to add to the base, and the new state of every slot."""
        return mean, {}


class FedAvgRound:
    """A round of a strategy that averages and steps.

    Args:
        strategy: takes the mean and makes the step.
        weights: name of each update -> weight.
        version: number of the version that is made.
    """

    def __init__(self, strategy: FedAvg, weights: Mapping[str, float], version: int) -> None:
        if not all(0 <= weight < math.inf for weight in weights.values()):
            raise ValueError("weights must be finite and at least 0")
        self._strategy = strategy
        self._version = version
        self._weights = {name: weights[name] for name in sorted(weights)}

    @property
    def scanning(self) -> bool:
        """No pass is due."""
        return False

    def scan(self, updates: Sequence[str], deltas: Iterable[Delta]) -> None:  # noqa: ARG002  others take note
        """Refuse: no pass is due."""
        raise RuntimeError("this round needs no scan")

    def end_scan(self) -> None:
        """Refuse: no pass is due."""
        raise RuntimeError("this round needs no scan")

    def shares(self, updates: Sequence[str]) -> list[float]:
        """Return the share of each update in a tensor that these have: they sum to 1, or are 0."""
        weights = [self._weights[name] for name in updates]
        total = math.fsum(weights)
        return [weight / total for weight in weights] if total > 0 else weights

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
        shares = self.shares(updates)
        checked = checked_deltas(updates, deltas, name=name, shape=base.shape)
        old = {slot: _slot(slot, state, name, base) for slot in self._strategy.slots}
        if not any(shares):
            return Combined(base.copy(), _to_float32(name, old))
        kept: Iterable[Delta] = (d for share, d in zip(shares, checked, strict=True) if share > 0)
        if isinstance(deltas, Summable):
            kept = deltas.only([share > 0 for share in shares])
        elif isinstance(deltas, Borrowed):
            kept = Borrowed(kept)
        mean = self._strategy.mean([share for share in shares if share > 0], kept)
        move, new = self._strategy.step(mean, old, self._version)
        value = _to_float32(name, {"value": np.add(base, move, dtype=np.float64)})["value"]
        return Combined(value, _to_float32(name, new))


def checked_deltas(
    updates: Sequence[str],
    deltas: Iterable[Delta],
    *,
    name: str = "",
    shape: tuple[int, ...] | None = None,
) -> Iterator[Delta]:
    """Yield the deltas of a tensor, each found to have its ``shape``, by default the first one's.

    Raises:
        TensorError: a delta has another shape; numpy would broadcast.
        ValueError: updates are not in ascending order, or not as many as deltas.
    """
    if any(first >= second for first, second in pairwise(updates)):
        raise ValueError("updates must be in ascending order of their names")
    for update, delta in zip(updates, deltas, strict=True):
        shape = delta.shape if shape is None else shape
        if delta.shape != shape:
            raise TensorError(
                f"has shape {delta.shape}, not {shape}",
                about=f"the update {update!r} of tensor {name!r}",
            )
        yield delta


def _slot(slot: str, state: Mapping[str, Array], name: str, base: Array) -> Delta:
    if slot not in state:
        return np.zeros(base.shape)
    if state[slot].shape != base.shape:
        raise TensorError(
            f"has shape {state[slot].shape}, not {base.shape}",
            about=f"the {slot} of tensor {name!r}",
        )
    return state[slot].astype(np.float64)


def _to_float32(name: str, arrays: Mapping[str, Delta]) -> dict[str, Array]:
    with np.errstate(over="ignore"):  # found below
        out = {what: np.asarray(array, dtype=np.float32) for what, array in arrays.items()}
    for what, array in out.items():
        if not np.isfinite(array).all():
            raise StudyError(
                f"The new {what} of tensor {name!r} is not finite: the server's steps diverge.",
                hint="choose a smaller learning rate or momentum, or bound updates with clip_norm",
            )
    return out
