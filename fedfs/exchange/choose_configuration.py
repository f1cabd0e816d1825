"""Choose the best configuration from the scores that sites have published, or from totals."""

import math
from collections.abc import Mapping, Sequence

from fedfs.aggregation import best_configuration
from fedfs.nnunet.data.dataset_json import has_regions, ordered
from fedfs.nnunet.score.summary import class_names
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Choice, ScoreTotal
from fedfs.protocol.participation import last_weights
from fedfs.protocol.score_rules import FULL
from fedfs.protocol.state import StudyState


def scored_sites(state: StudyState, tracks: Mapping[str, StudyState]) -> list[str]:
    """Return the sites that have scored cases of theirs with the last versions, sorted."""
    last = last_weights(tracks)
    return [
        site
        for site, message in sorted(state.cross_validations.items())
        if dict(message.weights) == last and message.n_cases
    ]


def choose_configuration(state: StudyState, sites: Sequence[str]) -> Choice:
    """Return the choice that follows from the sites' scores of the last versions.

    Args:
        state: accepted messages of what is common to all tracks.
        sites: whose scores count, each of which is there.

    Raises:
        StudyError: the sites scored different things, or nothing.
    """
    content = ordered(state.charter.dataset_json())
    counting = {site: state.cross_validations[site] for site in sorted(sites)}
    best = best_configuration.choose(
        {site: message.scores for site, message in counting.items()},
        sum(message.n_cases for message in counting.values()),
        configurations=participation.planned_configurations(state),
        classes=list(class_names(content).values()),
        overlap=has_regions(content),
    )
    return _choice_of(
        best, state, {site: state.digests[message.key] for site, message in counting.items()}
    )


def choose_by_totals(state: StudyState, tracks: Mapping[str, StudyState]) -> Choice:
    """Return the choice that follows from the totals of the last versions, with secure scores.

    Args:
        state: accepted messages of what is common to all tracks.
        tracks: of each track that has a model; all are finished.

    Raises:
        StudyError: there are no totals that can be compared.
    """
    totals: dict[str, list[ScoreTotal] | None] = {
        name: [] for name in participation.planned_configurations(state)
    }
    for track in tracks.values():
        end, found = track.finished, totals[track.charter.configuration]
        total = end.totals.get(FULL) if end is not None else None
        if total is None or total.fault or found is None:
            totals[track.charter.configuration] = None
        else:
            found.append(total)
    classes = class_names(ordered(state.charter.dataset_json()))
    return _choice_of(best_configuration.choose_by_totals(totals, classes), state, {})


def _choice_of(
    best: best_configuration.Chosen, state: StudyState, sites: Mapping[str, str]
) -> Choice:
    return Choice(
        key=layout.choice(),
        candidate=best.candidate,
        steps=best.steps,
        folds=state.charter.folds,
        sites=sites,
        dice_after=best.dice_after,
        n_cases=best.n_cases,
        dice={name: _number(value) for name, value in best.dice.items()},
        classes={name: tuple(map(_number, pair)) for name, pair in best.classes.items()},
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
