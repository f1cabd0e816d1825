"""What goes with secure sums is accepted, what would show or need single updates is refused."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.secure_rules import rules_of
from support.federation import DATASET_JSON


def options(**chosen):
    secure = {"name": "x", "dataset_json": DATASET_JSON, "secure_sums": True, "encryption": "age"}
    return StudyOptions(**{**secure, **chosen})


def test_what_is_not_given_is_as_secure_sums_need_it():
    secure = options()
    assert (secure.encoding, secure.max_move_ratio, secure.min_sites) == ("fixed", 0, 3)
    usual = options(secure_sums=False)
    assert (usual.encoding, usual.max_move_ratio, usual.min_sites) == ("fp32", 100, 2)
    assert rules_of(usual) is None
    rules = rules_of(options(min_summed_sites=4, max_coefficient_share=0.6, site_clip_norm=2))
    assert (rules.min_sites, rules.max_share, rules.clip_norm) == (4, 0.6, 2.0)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"encryption": ""}, "do not go with this encryption"),
        ({"encoding": "topk"}, "payloads as topk cannot be added"),
        ({"encoding": "fp32"}, "payloads as fp32 cannot be added"),
        ({"strategy": "FedMedian"}, "looks at single updates"),
        ({"strategy": "FedTrimmedAvg"}, "looks at single updates"),
        ({"strategy": "Krum"}, "looks at single updates"),
        ({"strategy": "MultiKrum"}, "looks at single updates"),
        ({"strategy_options": {"clip_norm": 1.0}}, "looks at single updates"),
        ({"max_move_ratio": 10.0}, "do not go with this max move ratio"),
        ({"mode": "asym", "cross_evaluation": True}, "publishes its whole model"),
        ({"ensemble": True, "rounds": 1}, "which is its update"),
        ({"encoding": "randk", "policy": "buffer", "policy_options": {"size": 3}}, "one version"),
        ({"min_summed_sites": 2}, "shows what it should hide"),
        ({"max_coefficient_share": 0.4}, "cannot be used"),
        ({"max_coefficient_share": 1.0}, "cannot be used"),
        ({"site_clip_norm": 0.0}, "cannot be used"),
    ],
)
def test_what_would_show_or_need_single_updates_is_refused(chosen, says):
    with pytest.raises(UserError, match=says) as caught:
        options(**chosen)
    assert caught.value.hint


@pytest.mark.parametrize(
    "strategy", ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedProx", "Nesterov"]
)
def test_strategies_that_take_the_mean_alone_go_with_them(strategy):
    assert options(strategy=strategy).strategy == strategy


def test_randk_goes_with_a_quorum():
    assert options(encoding="randk", policy="quorum", policy_options={"sites": 3}).encoding
