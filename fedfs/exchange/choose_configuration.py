"""Choose the best configuration from the scores that sites have published."""

import math
from collections.abc import Mapping

from fedfs.aggregation import best_configuration
from fedfs.nnunet.data.dataset_json import has_regions, ordered
from fedfs.nnunet.score.summary import class_names
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Choice
from fedfs.protocol.participation import last_weights
from fedfs.protocol.state import StudyState


def choose_configuration(state: StudyState, tracks: Mapping[str, StudyState]) -> Choice:
    """Return the choice that follows from the sites' scores of the last versions.

    Args:
        state: accepted messages of what is common to all tracks.
        tracks: state of each track that has a model.

    Raises:
        StudyError: the sites scored different things, or nothing.
    """
    content = ordered(state.charter.dataset_json())
    last = last_weights(tracks)
    counting = {
        site: message
        for site, message in sorted(state.cross_validations.items())
        if dict(message.weights) == last and message.n_cases
    }
    best = best_configuration.choose(
        {site: message.scores for site, message in counting.items()},
        sum(message.n_cases for message in counting.values()),
        configurations=participation.planned_configurations(state),
        classes=list(class_names(content).values()),
        overlap=has_regions(content),
    )
    return Choice(
        key=layout.choice(),
        candidate=best.candidate,
        steps=best.steps,
        folds=state.charter.folds,
        sites={site: state.digests[message.key] for site, message in counting.items()},
        dice_after=best.dice_after,
        n_cases=best.n_cases,
        dice={name: _number(value) for name, value in best.dice.items()},
        classes={name: tuple(map(_number, pair)) for name, pair in best.classes.items()},
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
