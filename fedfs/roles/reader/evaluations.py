"""Evaluations that may be compared, and means of them over sites. Pure.

A site's numbers are its own word. Those of more cases than it has announced are not believed: one
site would then decide each mean.
"""

import math
from collections.abc import Iterable

from fedfs.protocol.messages import EvaluationMessage
from fedfs.protocol.state import StudyState

PSEUDO = "pseudo"


def last_scored(state: StudyState) -> int | None:
    """Return the version at which models are compared; None before anybody has."""
    if state.finished is not None:
        return state.finished.version
    versions = (
        v for _, v, model in state.evaluations if model != PSEUDO and v <= max(state.newest, 0)
    )
    return max(versions, default=None)


def is_credible(state: StudyState, message: EvaluationMessage) -> bool:
    """Return whether a site has scored no more cases than it has announced."""
    join = state.joins.get(message.site)
    announced = state.n_cases(message.site) or (join.n_cases if join else None)
    return announced is None or message.n_cases <= announced


def mean_dice(state: StudyState, version: int, kind: str = PSEUDO) -> float | None:
    """Return the mean over sites of a version's mean Dice, weighted by validation cases.

    Args:
        state: accepted messages.
        version: the version that was scored.
        kind: ``pseudo`` for nnU-Net's pseudo Dice, ``full`` for its full validation.
    """
    return weighted_mean(
        (message.n_cases, message.mean_dice)
        for (_, of, variant), message in sorted(state.evaluations.items())
        if of == version and variant == kind and is_credible(state, message)
    )


def weighted_mean(pairs: Iterable[tuple[int, float | None]]) -> float | None:
    """Return the mean of the values that are known by their weights; None without any weight."""
    known = [(weight, value) for weight, value in pairs if value is not None]
    total = sum(weight for weight, _ in known)
    return math.fsum(weight * value for weight, value in known) / total if total else None
