"""Choose the best configuration from the scores that sites have published."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fedfs.aggregation import best_configuration
from fedfs.exchange.read import Observer
from fedfs.nnunet.data.dataset import has_regions, ordered
from fedfs.nnunet.plan.planner import dataset_json
from fedfs.nnunet.score.summary import class_names
from fedfs.protocol import participation
from fedfs.protocol.state import newest_charter


def active_tracks(tracks: Mapping[str, Observer]) -> dict[str, Observer]:
    """Return the tracks whose configuration nnU-Net has planned."""
    return {name: one for name, one in tracks.items() if not participation.is_void(one.state)}


def decide(observer: Observer, tracks: Mapping[str, Observer]) -> dict[str, Any]:
    """Return the fields of the choice that follows from what the sites have scored.

    Only scores of the last versions count.

    Raises:
        StudyError: the sites scored different things, or nothing.
    """
    state, charter = observer.state, newest_charter(observer.state)
    tracks = active_tracks(tracks)
    content = ordered(dataset_json(charter))
    last = {name: one.state.models[one.state.newest].weights_sha256 for name, one in tracks.items()}
    said = {
        site: message
        for site, message in sorted(state.cross_validations.items())
        if dict(message.weights) == last and message.n_cases
    }
    chosen = best_configuration.choose(
        {site: message.scores for site, message in said.items()},
        sum(message.n_cases for message in said.values()),
        configurations=participation.planned_configurations(state),
        classes=list(class_names(content).values()),
        overlap=has_regions(content),
    )
    fields = dataclasses.asdict(chosen)
    return {
        **fields,
        "dice": {name: _number(value) for name, value in chosen.dice.items()},
        "classes": {name: tuple(map(_number, pair)) for name, pair in chosen.classes.items()},
        "folds": charter.folds,
        "sites": {site: state.digests[message.key] for site, message in said.items()},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
