"""Rules about the models that come out of a study: those of sites, and those for others."""

from fedfs.aggregation import strategies
from fedfs.aggregation.strategies import Strategy
from fedfs.errors import UserError
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
    if export == MEAN and encoding == "topk":
        raise UserError(
            "Updates as topk carry a part of each change, so that versions would not have the mean "
            "of what sites keep local.",
            hint="choose another encoding, for example fp16",
        ).of("keep_local_export", "encoding")
