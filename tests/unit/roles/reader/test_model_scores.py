"""Scores of models at sites: pairs in one direction, choices, and what cannot be true."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from fedfs.protocol.messages import PairedDifference, Summary
from fedfs.roles.reader.evaluations import mean_dice
from fedfs.roles.reader.model_scores import (
    choices,
    differences,
    merged_dice,
    model_name,
    models_at_sites,
)
from support.federation import Federation
from support.scored_models import FOUR_SITES, with_models


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    targets = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 0.5}
    federation = Federation(tmp_path_factory.mktemp("hosts"), targets=targets, rounds=1).start()
    federation.run()
    return with_models(federation.observe().refresh(everything=True), FOUR_SITES)


def changed(state, site, model, **changes):
    key = (site, state.newest, model)
    message = dataclasses.replace(state.evaluations[key], **changes)
    return dataclasses.replace(state, evaluations={**state.evaluations, key: message})


def of(state, site, model):
    return state.evaluations[site, state.newest, model]


def pairs(state, site):
    return {(row.model, row.other): row for row in differences(state) if row.site == site}


def test_each_model_at_each_site_has_its_interval(state):
    rows = {(row.site, row.model): row for row in models_at_sites(state)}
    assert list(rows)[:3] == [("east", "local"), ("east", "full"), ("east", "personal")]
    assert len(rows) == 12
    dice, cases = rows["south", "full"].dice, FOUR_SITES["south"]["full"]
    assert (dice.n, dice.mean) == (6, pytest.approx(statistics.fmean(cases)))
    half = 2.570582 * statistics.stdev(cases) / math.sqrt(6)
    assert (dice.low, dice.high) == pytest.approx((dice.mean - half, dice.mean + half), rel=1e-6)
    assert rows["south", "full"].metrics.keys() == {"dice", "hd95_mm"}
    assert rows["south", "full"].classes["organ"]["dice"] == dice


def test_without_a_distribution_the_mean_stands_alone(state):
    plain = changed(state, "east", "full", metrics={}, metrics_by_class={})
    (row,) = [r for r in models_at_sites(plain) if (r.site, r.model) == ("east", "full")]
    assert (row.dice.n, row.dice.sd, row.dice.low) == (6, None, None)
    assert row.dice.mean == of(state, "east", "full").mean_dice
    unscored = changed(state, "east", "full", metrics={}, mean_dice=None)
    assert ("east", "full") not in {(r.site, r.model) for r in models_at_sites(unscored)}


def test_the_interval_ends_where_the_metric_does(state):
    wide = Summary(n=2, mean=0.95, sd=0.1, quartiles=(0.9, 0.95, 1.0))
    metrics = {"dice": wide, "hd95_mm": dataclasses.replace(wide, mean=0.5, sd=1.0)}
    (row,) = [
        r
        for r in models_at_sites(changed(state, "east", "full", metrics=metrics))
        if (r.site, r.model) == ("east", "full")
    ]
    assert row.dice.high == 1.0
    assert row.metrics["hd95_mm"].low == 0.0
    assert row.metrics["hd95_mm"].high > 1


def test_a_pair_is_told_in_one_direction_whoever_was_scored_last(state):
    found = pairs(state, "east")
    assert list(found) == [("full", "local"), ("personal", "local"), ("personal", "full")]
    forth = of(state, "east", "full").against["local"]["dice"]
    assert found["full", "local"].mean == forth.mean
    back = dataclasses.replace(forth, mean=-forth.mean, low=-forth.high, high=-forth.low)
    turned = changed(state, "east", "full", against={})
    turned = changed(turned, "east", "local", against={"full": {"dice": back}})
    assert pairs(turned, "east") == found | {("full", "local"): found["full", "local"]}


def test_verdicts_and_cases_needed(state):
    verdicts = {row.site: row.verdict for row in differences(state) if row.model == "full"}
    assert verdicts == {
        "east": "no difference shown", "north": "better", "south": "better", "west": "worse",
    }  # fmt: skip
    row = pairs(state, "east")["full", "local"]
    sd = statistics.stdev(
        a - b for a, b in zip(FOUR_SITES["east"]["full"], FOUR_SITES["east"]["local"], strict=True)
    )
    assert row.error == pytest.approx(sd / math.sqrt(6 - 1), rel=1e-3)
    assert row.needed == pytest.approx(
        (2.8016 * sd * math.sqrt(6 / 5) / 0.01) ** 2 + 1.92, rel=0.03
    )
    assert row.needed < row.needed_for_mean


def test_a_shorter_distance_is_better(state):
    found = PairedDifference(n=6, n_patients=6, mean=-2.0, low=-3.0, high=-1.0, p=0.03)
    against = {
        "local": {
            "hd95_mm": found,
            "volume_ml": found,
            "false_positives": dataclasses.replace(found, low=-3.0, high=0.5),
        }
    }
    rows = {
        row.metric: row
        for row in differences(changed(state, "east", "full", against=against))
        if (row.site, row.model) == ("east", "full")
    }
    assert {name: row.verdict for name, row in rows.items()} == {
        "hd95_mm": "better",
        "volume_ml": "no difference shown",
        "false_positives": "no difference shown",
    }
    assert rows["hd95_mm"].needed is None


def test_the_choice_is_the_one_among_most_models(state):
    found = {choice.site: choice for choice in choices(state)}
    assert found["east"].among == ("local", "full", "personal")
    assert {site: choice.model for site, choice in found.items()} == {
        "east": "personal", "north": "full", "south": "personal", "west": "personal",
    }  # fmt: skip


IMPOSSIBLE = PairedDifference(n=6, n_patients=6, mean=0.5, low=0.4, high=0.6, p=0.01)


@pytest.mark.parametrize(
    "against",
    [
        {"ema": {"dice": IMPOSSIBLE}},
        {"of-nowhere": {"dice": IMPOSSIBLE}},
        {"full": {"dice": IMPOSSIBLE}},
        {"pseudo": {"dice": IMPOSSIBLE}},
        {"local": {"beauty": IMPOSSIBLE}},
        {"local": {"dice": dataclasses.replace(IMPOSSIBLE, n=2**53, n_patients=2**53)}},
        {"local": {"dice": dataclasses.replace(IMPOSSIBLE, mean=3.0, high=5.0)}},
    ],
)
def test_a_pair_of_what_was_never_scored_is_none(state, against):
    assert ("full", "local") not in pairs(changed(state, "east", "full", against=against), "east")
    assert len(pairs(changed(state, "east", "full", against=against), "east")) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "ema"},
        {"variant": "ema", "among": ("local", "ema")},
        {"among": ("local", "full")},
        {"n": 2**53},
    ],
)
def test_a_choice_of_a_model_that_was_never_scored_is_none(state, changes):
    chosen = dataclasses.replace(of(state, "west", "personal").chosen, **changes)
    forged = changed(
        changed(state, "west", "personal", chosen=chosen), "west", "full", chosen=chosen
    )
    assert "west" not in {choice.site for choice in choices(forged)}


def test_more_cases_than_announced_are_not_believed(state):
    huge = Summary(n=2**53, mean=0.99, sd=0.1, quartiles=(0.9, 0.99, 1.0))
    forged = changed(state, "west", "full", n_cases=2**53, metrics={"dice": huge}, mean_dice=0.99)
    assert ("west", "full") not in {(row.site, row.model) for row in models_at_sites(forged)}
    assert ("full", "local") not in pairs(forged, "west")
    others = [statistics.fmean(FOUR_SITES[site]["full"]) for site in ("east", "north", "south")]
    assert mean_dice(forged, forged.newest, "full") == pytest.approx(statistics.fmean(others))


@pytest.mark.parametrize("wrong", [{"n": 2**53}, {"mean": 1.7}, {"mean": -0.2}])
def test_a_distribution_that_cannot_be_is_not_shown(state, wrong):
    summary = dataclasses.replace(of(state, "east", "full").metrics["dice"], **wrong)
    forged = changed(state, "east", "full", metrics={"dice": summary, "beauty": summary})
    (row,) = [r for r in models_at_sites(forged) if (r.site, r.model) == ("east", "full")]
    assert row.dice.mean == of(state, "east", "full").mean_dice
    assert row.dice.low is None
    assert "beauty" not in row.metrics


def test_a_version_that_there_is_not_decides_nothing(state):
    far = dataclasses.replace(of(state, "west", "full"), version=10**6)
    forged = dataclasses.replace(
        state, evaluations={**state.evaluations, ("west", 10**6, "full"): far}
    )
    assert models_at_sites(forged) == models_at_sites(state)
    running = dataclasses.replace(forged, finished=None)
    assert models_at_sites(running) == models_at_sites(state)


def test_folds_of_a_site_are_merged_as_one_sample(state):
    one, other = FOUR_SITES["east"]["full"], FOUR_SITES["north"]["full"]
    merged = merged_dice([of(state, "east", "full"), of(state, "north", "full")])
    assert merged.n == 12
    assert merged.mean == pytest.approx(statistics.fmean([*one, *other]))
    assert merged.sd == pytest.approx(statistics.stdev([*one, *other]))
    plain = dataclasses.replace(of(state, "east", "full"), metrics={})
    assert merged_dice([plain, of(state, "north", "full")]) is None


def test_models_have_names_for_people():
    assert model_name("full") == "federated model"
    assert model_name("of-north") == "model north"
