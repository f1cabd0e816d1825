"""What no honest site can have scored is refused when it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedfs.errors import MalformedError
from fedfs.protocol import layout
from fedfs.protocol.messages import (
    ChosenModel,
    EvaluationMessage,
    PairedDifference,
    Summary,
    decode,
    encode,
)

KEY = layout.evaluation("north", 3, "personal")
DICE = Summary(n=4, mean=0.8, sd=0.1, quartiles=(0.7, 0.8, 0.9))
GAIN = PairedDifference(n=4, n_patients=3, mean=0.02, low=-0.01, high=0.05, p=0.2)
SCORES = EvaluationMessage(
    study="study", created_at="2026-01-31T12:00:00Z",
    key=KEY, site="north", version=3, variant="personal", n_cases=4, mean_dice=0.8, classes={},
    loss=None, seconds=1.0, budget=0.25, metrics={"dice": DICE},
    metrics_by_class={"organ": {"dice": DICE}}, against={"full": {"dice": GAIN}},
    chosen=ChosenModel(
        variant="personal", among=("full", "personal"), n=4, dice=0.79, low=0.7, high=0.8
    ),
)  # fmt: skip


def read(message: EvaluationMessage) -> EvaluationMessage:
    return decode(EvaluationMessage, encode(message), key=KEY, study="study")


def test_scores_of_cases_survive_the_way():
    assert read(SCORES) == SCORES


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SCORES, metrics={"dice": replace(DICE, quartiles=(0.7, 0.8))}),
        replace(SCORES, metrics={"dice": replace(DICE, quartiles=(0.9, 0.8, 0.7))}),
        replace(SCORES, metrics={"dice": replace(DICE, n=0)}),
        replace(SCORES, metrics={"dice": replace(DICE, sd=-0.1)}),
        replace(SCORES, metrics_by_class={"organ": {"dice": replace(DICE, n=0)}}),
        replace(SCORES, against={"full": {"dice": replace(GAIN, low=0.2)}}),
        replace(SCORES, against={"full": {"dice": replace(GAIN, low=None)}}),
        replace(SCORES, against={"full": {"dice": replace(GAIN, n_patients=5)}}),
        replace(SCORES, against={"full": {"dice": replace(GAIN, p=1.5)}}),
        replace(SCORES, against={"../full": {"dice": GAIN}}),
        replace(SCORES, chosen=replace(SCORES.chosen, variant="local")),
        replace(SCORES, chosen=replace(SCORES.chosen, low=0.9)),
        replace(SCORES, chosen=replace(SCORES.chosen, low=None)),
        replace(SCORES, metrics={"dice": replace(DICE, mean=1e99)}),
        replace(SCORES, cases=({"dice": 0.5},) * 5),
    ],
)
def test_impossible_scores_are_refused(wrong):
    with pytest.raises(MalformedError):
        read(wrong)
