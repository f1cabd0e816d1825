"""Rules about the models that come out of a study: those of sites, and those for others."""

from collections.abc import Collection

from fedfs.aggregation import strategies
from fedfs.aggregation.strategies import Strategy
from fedfs.errors import UserError
from fedfs.nnunet.allowed.names import CASCADE
from fedfs.protocol.messages import FFE, KEPT_LOCAL, LOCAL_EXPORTS, MEAN


def check_local(
    keep_local: str, export: str, *, mode: str, strategy: Strategy, encoding: str
) -> None:
    """Check what sites keep local, and what others get of it.

    Args:
        keep_local: as of the charter.
        export: ``keep_local_export`` of the charter.
        mode: the study's.
        strategy: combines updates.
        encoding: of updates.

    Raises:
        UserError: it cannot be so.
    """
    if keep_local not in KEPT_LOCAL or export not in LOCAL_EXPORTS:
        raise UserError(
            f"Sites cannot keep {keep_local!r} local, or export {export!r} of it.",
            hint="norm, or none; and for an export mean, or none",
        ).of("keep_local", "keep_local_export")
    if export and not (keep_local and mode == FFE):
        raise UserError(
            "--keep-local-export is for --keep-local in the mode ffe.",
            hint="leave it out: versions are no model for others, or sites keep nothing",
        ).of("keep_local_export")
    if export == MEAN and not strategies.ends_with_mean(strategy):
        raise UserError(
            "The strategy makes a step from the mean of updates, so that versions would not have "
            "the mean of what sites keep local.",
            hint="choose a strategy without steps of the server, for example FedAvg",
        ).of("keep_local_export", "strategy")
    if export == MEAN and encoding in ("topk", "randk"):
        raise UserError(
            f"Updates as {encoding} carry a part of each change, so that versions would not have "
            "the mean of what sites keep local.",
            hint="choose another encoding, for example fp16",
        ).of("keep_local_export", "encoding")


def check_averages(average_last: int | None, ema: float | None, *, rounds: int) -> None:
    """Check which averages of versions a study has.

    Args:
        average_last: versions that are averaged in the end; None for none.
        ema: decay of the exponential average; None for none.
        rounds: versions that the study makes.

    Raises:
        UserError: it cannot be so.
    """
    if average_last is not None and not 2 <= average_last <= rounds:  # noqa: PLR2004  one is none
        raise UserError(
            f"The mean of the last {average_last} versions cannot be made of {rounds} rounds.",
            hint=f"2 to {rounds}; version 0, the initial weights, is never part of it",
        ).of("average_last", "rounds")
    if ema is not None and not 0 < ema < 1:
        raise UserError(
            f"The decay {ema:g} of the exponential average is not between 0 and 1.",
            hint="for example 0.9, with which about the last ten versions count",
        ).of("ema")


def check_ensemble(
    *, mode: str, rounds: int, keep_local: str, configurations: Collection[str]
) -> None:
    """Check that the models of a study's sites can be an ensemble.

    Args:
        mode: the study's.
        rounds: versions that it makes.
        keep_local: as of the charter.
        configurations: nnU-Net's, of its tracks.

    Raises:
        UserError: they cannot.
    """
    second = CASCADE[1]
    faults = {
        "mode": (mode != FFE, "its sites need the same plan", "leave out --mode"),
        "rounds": (rounds != 1, "its models are those after one round", "give --rounds 1"),
        "keep_local": (bool(keep_local), "its models are whole", "leave out --keep-local"),
        "configuration": (
            second in configurations, "its models are of one stage", f"leave out {second}",
        ),
    }  # fmt: skip
    for name, (is_wrong, why, hint) in faults.items():
        if is_wrong:
            text = f"An ensemble does not go with this {name}: {why}."
            raise UserError(text, hint=hint).of("ensemble", name)
