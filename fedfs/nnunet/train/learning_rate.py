"""The learning rate of a round, in place of the trainer's own.

nnU-Net's trainers make optimizer and schedule from ``initial_lr``. One of somebody else's need not,
and would train with another rate than the study has.
"""

from typing import Any

from fedfs.errors import SetupError


def check_rate(trainer: Any, rate: float | None) -> None:
    """Check that an initialised trainer begins with a learning rate that it was given.

    Optimizers may have other groups of parameters with other rates.

    Args:
        trainer: nnU-Net's.
        rate: that was set as ``initial_lr``; None where it was left as it is.

    Raises:
        SetupError: it begins with another.
    """
    if rate is None:
        return
    groups, schedule = trainer.optimizer.param_groups, vars(trainer.lr_scheduler)
    rates = {group.get("initial_lr", group["lr"]) for group in groups}
    scheduled = {schedule[name] for name in ("initial_lr", "max_lr") if name in schedule}
    if rate in rates and scheduled <= {rate}:
        return
    found = ", ".join(f"{value:g}" for value in sorted((rates | scheduled) - {rate}))
    raise SetupError(
        f"Trainer {type(trainer).__name__} cannot begin with the learning rate {rate:g}: it begins "
        f"with {found} of its own.",
        hint="leave the learning rate to the trainer, or let its configure_optimizers take "
        "self.initial_lr",
    )
