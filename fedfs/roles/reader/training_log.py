"""Training curves and validation summary of a study, in the format of nnU-Net's own files.

Pure. Each version is an epoch: of its losses and scores the means over sites, weighted by cases.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedfs.protocol.messages import EvaluationMessage, from_utc
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import mean_dice, scores_of, weighted_mean


def training_log(state: StudyState, version: int) -> list[dict[str, Any]]:
    """Return nnU-Net's log of an epoch for each version from 1 to ``version``.

    What is not known is NaN: a study tells no learning rate.
    """
    log = []
    for number in range(1, version + 1):
        scores = scores_of(state, number, "pseudo")
        updates = [u for (_, base), u in sorted(state.updates.items()) if base == number - 1]
        log.append(
            {
                "train_losses": _or_nan(
                    weighted_mean(
                        (u.n_training_cases, u.metrics.get("train_loss")) for u in updates
                    )
                ),
                "val_losses": _or_nan(weighted_mean((s.n_cases, s.loss) for s in scores)),
                "mean_fg_dice": _or_nan(mean_dice(state, number)),
                "dice_per_class_or_region": list(_of_classes(scores).values()),
                "lrs": math.nan,
                "epoch_start_timestamps": from_utc(state.rounds[number - 1].created_at),
                "epoch_end_timestamps": from_utc(state.rounds[number].created_at),
            }
        )
    return log


def validation_summary(
    state: StudyState, version: int, keys: Mapping[str, str], *, variant: str = "full"
) -> dict[str, Any]:
    """Return nnU-Net's ``summary.json`` of the sites' full validations; it shows no case.

    Args:
        state: accepted messages.
        version: that was validated; one that was not gives NaN.
        keys: name of a class -> its key in such files.
        variant: of the validation, where it is of another model beside the version.
    """
    scores = scores_of(state, version, variant)
    means = _of_classes(scores)
    of_key = {key: means.get(name, math.nan) for name, key in keys.items()}
    known = [value for value in of_key.values() if not math.isnan(value)]
    return {
        "foreground_mean": {"Dice": math.fsum(known) / len(known) if known else math.nan},
        "mean": {key: {"Dice": value} for key, value in of_key.items()},
        "metric_per_case": [],
        "n_cases": sum(score.n_cases for score in scores),
    }


def _of_classes(scores: Iterable[EvaluationMessage]) -> dict[str, float]:
    pairs: dict[str, list[tuple[int, float | None]]] = {}
    for score in scores:
        for name, of_class in score.classes.items():
            pairs.setdefault(name, []).append((score.n_cases, of_class.dice))
    return {name: _or_nan(weighted_mean(of_name)) for name, of_name in pairs.items()}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
