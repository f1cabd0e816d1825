"""Decisions of a study that trains nothing, from states made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.actions import CloseStudy, Done, ScoreGiven, Wait
from fedfs.protocol.decide import decide_aggregator, decide_site
from fedfs.protocol.messages import EvaluationMessage, FinishedMessage
from support.given_models import evaluation


@pytest.fixture
def state(tmp_path):
    """Three sites are on the roster; two have to score, and there are two models."""
    return evaluation(tmp_path, min_sites=2).start().observe().state


def score(state, site, *models):
    for model in models:
        variant = layout.score_of(model)
        state.evaluations[site, 0, variant] = EvaluationMessage(
            key=layout.evaluation(site, 0, variant), site=site, version=0, variant=variant,
            n_cases=3, mean_dice=0.5, classes={}, loss=None, seconds=1.0,
        )  # fmt: skip


def set_roster(study, site, state):
    charter = study.charter
    roster = tuple(
        dataclasses.replace(entry, state=state) if entry.site == site else entry
        for entry in charter.roster
    )
    study.charters[charter.number] = dataclasses.replace(charter, roster=roster)


def test_a_site_scores_one_model_after_the_other_and_waits_for_the_end(state):
    assert decide_site(state, "north", prepared=False) == ScoreGiven("ours")
    score(state, "north", "ours")
    assert decide_site(state, "north", prepared=False) == ScoreGiven("theirs")
    score(state, "north", "theirs")
    assert decide_site(state, "north", prepared=False) == Wait("the aggregator to close the study")
    state.finished = FinishedMessage(key=layout.FINISHED, version=0, weights_sha256="")
    assert isinstance(decide_site(state, "north", prepared=False), Done)
    assert decide_site(state, "south", prepared=False) == ScoreGiven("ours")


def test_the_aggregator_waits_for_all_scores_of_all_that_are_present(state):
    score(state, "east", "ours", "theirs")
    score(state, "north", "ours")
    assert decide_aggregator(state, now_s=0.0) == Wait("the scores of north, south")
    set_roster(state, "south", "paused")
    assert decide_aggregator(state, now_s=0.0) == Wait("the scores of north")
    score(state, "north", "theirs")
    assert decide_aggregator(state, now_s=0.0) == CloseStudy(0)


def test_a_site_that_is_paused_or_not_on_the_roster_scores_nothing(state):
    set_roster(state, "south", "paused")
    assert isinstance(decide_site(state, "south", prepared=False), Wait)
    set_roster(state, "south", "removed")
    with pytest.raises(StudyError, match="removed"):
        decide_site(state, "south", prepared=False)
