"""Evaluations that may be compared, and means of them over sites. Pure.

A site's numbers are its own word. Those of more cases than it has announced are not believed: one
site would then decide each mean. With secure scores nobody sees the numbers of a site: what there
is of a version is one evaluation, of the cases of several sites together.
"""

import math
from collections.abc import Iterable

from fedfs.learner import ClassScore
from fedfs.protocol import layout
from fedfs.protocol.messages import SUPPRESSED, EvaluationMessage, ScoreTotal
from fedfs.protocol.score_rules import PSEUDO, is_totalled
from fedfs.protocol.state import StudyState

IN_TOTALS = "in totals over sites only"
AT_SITE = "kept at the site"


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
        for message in scores_of(state, version, kind)
        if is_credible(state, message)
    )


def scores_of(state: StudyState, version: int, variant: str) -> list[EvaluationMessage]:
    """Return the evaluations of a model by site, or one of all sites together."""
    if state.charter.secure_scores:
        total = total_of(state, version, variant)
        return [] if total is None or total.fault else [_as_evaluation(total, version, variant)]
    found = sorted(state.evaluations.items())
    return [message for (_, *key), message in found if key == [version, variant]]


def total_of(state: StudyState, version: int, variant: str) -> ScoreTotal | None:
    """Return the total of the scores of a model over sites; None if there is none, or not yet."""
    record, end = state.rounds.get(version + 1), state.finished
    if end is not None and end.version == version:
        return end.totals.get(variant)
    return record.scores.get(variant) if record is not None else None


def _as_evaluation(total: ScoreTotal, version: int, variant: str) -> EvaluationMessage:
    name = f"{len(total.sites)} sites together"
    return EvaluationMessage(
        key=layout.evaluation("together", version, variant),
        site=name,
        version=version,
        variant=variant,
        n_cases=total.n_cases,
        mean_dice=total.mean.mean if total.mean.n else None,
        classes={name: ClassScore(one.mean) for name, one in total.classes.items() if one.n},
        loss=None,
        seconds=0.0,
    )


def hidden_text(state: StudyState, message: EvaluationMessage) -> str:
    """Return why an evaluation shows no scores, as text; "" if it shows what there is."""
    if message.is_masked:
        return IN_TOTALS
    if not message.suppressed:
        return ""
    is_kept = state.charter.secure_scores and not is_totalled(state.charter, message)
    return AT_SITE if is_kept else SUPPRESSED


def weighted_mean(pairs: Iterable[tuple[int, float | None]]) -> float | None:
    """Return the mean of the values that are known by their weights; None without any weight."""
    known = [(weight, value) for weight, value in pairs if value is not None]
    total = sum(weight for weight, _ in known)
    return math.fsum(weight * value for weight, value in known) / total if total else None
