"""The seam of a strategy: deltas of one tensor in, its next global value and state out.

Rules:
 * A strategy is a frozen set of options. What one aggregation learns lives in a :class:`Round`,
   which is begun anew for each version: a killed aggregation is simply begun again.
 * One tensor at a time, or one slice of a tensor: ``combine`` works element by element, so the
   caller may cut tensors into slices to bound its memory. A strategy that needs the whole update
   vector first sees every slice once in :meth:`Round.scan`, and keeps numbers per update or pair.
 * Participation is per tensor: only the updates that have a tensor are passed with it, and their
   weights are renormalised among them. An update of weight 0 counts for nothing, in no strategy.
 * Updates are ordered by name, so that sums are the same wherever they are formed. Only sums over
   a slice depend on how tensors are cut: all aggregators of a study cut alike.
 * Accumulation is in float64 and ends in one rounding to float32. Server state is float32 too:
   the next round starts from what was published, so that any host continues with the same bits,
   and a second copy of the model in float64 would cost bytes that no momentum needs.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from fedfs.learner import Array
from fedfs.tensors.encodings.base import Delta

NO_STATE: Mapping[str, Array] = MappingProxyType({})
"""The server state of a tensor before the first round."""


@dataclass(frozen=True)
class Borrowed:
    """Deltas that nobody else needs: each may be overwritten, and is valid until the next."""

    deltas: Iterable[Delta]

    def __iter__(self) -> Iterator[Delta]:
        return iter(self.deltas)


class Summable(Borrowed):
    """Deltas whose weighted sum is formed faster than one by one, with the same bits."""

    @abstractmethod
    def only(self, taken: Sequence[bool]) -> "Summable":
        """Return those of the deltas that are ``taken``."""

    @abstractmethod
    def weighted_sum(self, shares: Sequence[float]) -> Delta:
        """Return the sum of ``delta * share``, each rounded, in the order of the deltas."""


@dataclass(frozen=True)
class Combined:
    """Result of a round for one tensor.

    Attributes:
        value: its next global value, float32.
        state: slot -> server state to publish with it, float32, shaped like ``value``.
    """

    value: Array
    state: Mapping[str, Array] = field(default_factory=lambda: NO_STATE)


class Round(Protocol):
    """One aggregation: scan everything while ``scanning``, then combine tensor by tensor."""

    @property
    def scanning(self) -> bool:
        """True while a pass over all tensors is due before ``combine``."""

    def scan(self, updates: Sequence[str], deltas: Iterable[Delta]) -> None:
        """Take note of one tensor (or slice); every one is passed once in each pass.

        Args:
            updates: names of the updates that have this tensor, ascending.
            deltas: theirs, in this order, of one shape; consumed once.
        """

    def end_scan(self) -> None:
        """Say that a pass is complete; another may be due, see ``scanning``."""

    def combine(
        self,
        name: str,
        base: Array,
        updates: Sequence[str],
        deltas: Iterable[Delta],
        state: Mapping[str, Array] = NO_STATE,
    ) -> Combined:
        """Return the next value and state of a tensor (or slice); from any thread, in any order.

        Args:
            name: canonical name of the tensor, for messages.
            base: its current global value, float32, any shape; or a slice of it.
            updates: names of the updates that have this tensor, ascending. If there is none, value
                and state stay as they are.
            deltas: theirs, in this order, shaped like ``base``; consumed once, an iterator will do.
                They are left as they are, unless they are :class:`Borrowed`.
            state: slot -> state as the last version published it; a slot that is absent is zero.

        Raises:
            TensorError: a delta or a state has another shape than ``base``.
            StudyError: the result is not finite: the server's steps diverge.
        """


class Strategy(Protocol):
    """A rule that makes the next global model from updates."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors that belong to each tensor; empty if it has no memory."""

    @property
    def stacks(self) -> bool:
        """True where ``scan`` and ``combine`` hold the deltas of all updates at once: cut finer."""

    @property
    def proximal_mu(self) -> float:
        """Factor of FedProx's proximal term in the sites' training loss; 0 for none."""

    @property
    def fewest_updates(self) -> int:
        """Fewest updates, at least 1, of which it makes a version."""

    def tolerates(self, n_updates: int) -> int:
        """Return how many updates of so many may hold anything without ruling the result."""

    def begin(self, weights: Mapping[str, float], *, version: int) -> Round:
        """Begin an aggregation.

        Args:
            weights: name of each update of this round, and of no other, -> its weight, at least 0;
                they need not sum to 1. Names order the updates and settle ties.
            version: number of the version that is made, 1 for the first.

        Raises:
            StudyError: there are too few updates for what the strategy is to tolerate.
        """
