"""Budget and schedule of a personal model; their defaults have their home here."""

from dataclasses import dataclass

from fedfs.errors import UserError
from fedfs.protocol.ranges import check_learning_rate

_MOST_SHARE = 100.0


@dataclass(frozen=True)
class FineTuning:
    """Budget and schedule of a personal model.

    Attributes:
        share: of the epochs of the whole federation; at least one epoch is trained.
        learning_rate: that nnU-Net's schedule over these epochs begins with; None for the
            trainer's own, whatever the study's is: with Adam a tenth of that with SGD.
    """

    share: float = 0.25
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= _MOST_SHARE:
            raise UserError(
                f"A personal model cannot have {self.share:g} times the federation's budget.",
                hint=f"more than 0, at most {_MOST_SHARE:g}; default {FineTuning.share:g}",
            )
        check_learning_rate(self.learning_rate)

    @property
    def schedule(self) -> str:
        """Words for what the schedule begins with."""
        rate = self.learning_rate
        return "the trainer's own learning rate" if rate is None else f"a learning rate of {rate:g}"

    def n_epochs(self, n_federated: int) -> int:
        """Return the epochs of a personal model after a federation of ``n_federated``."""
        return max(1, round(self.share * n_federated))
