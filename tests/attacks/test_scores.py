"""Scores of a site that lies: no report ends, and those of other sites stay as they are."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fedfs.exchange.read import open_study
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import ChosenModel, EvaluationMessage, PairedDifference, Summary
from fedfs.roles.reader.model_card import CardFold, model_card
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.store.memory import MemoryStore
from support.federation import Federation, forge
from support.forgery import sign_value
from support.scored_models import FOUR_SITES, evaluations

HUGE = 2**52
SITES = ("east", "north", "south", "west")
LIAR = "west"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study whose sites have signed the scores of three models each."""
    targets = {site: float(i + 1) for i, site in enumerate(SITES)}
    federation = Federation(tmp_path_factory.mktemp("hosts"), targets=targets, rounds=1).start()
    federation.run()
    for message in evaluations(FOUR_SITES, version=1).values():
        publish(federation, federation.store, message)
    return federation


def publish(federation, store, message, **changes):
    study = federation.place.track.study(federation.charter.study, message.key)
    value = {**json.loads(messages.encode(dataclasses.replace(message, study=study))), **changes}
    signer = federation.keyring(message.site).load(f"site-{message.site}")
    key = federation.place.track.on_store(message.key)
    forge(store, key, sign_value(signer, EvaluationMessage, value))


def state_with(federation, *forged):
    store = MemoryStore(clock=federation.clock)
    store.objects = dict(federation.store.objects)
    for message in forged:
        publish(federation, store, message)
    observer = open_study(store)
    return observer.refresh(everything=True), observer.sizes


def lie(**changes) -> EvaluationMessage:
    truth = evaluations(FOUR_SITES, version=1)[LIAR, 1, "full"]
    key = layout.evaluation(LIAR, changes.get("version", 1), changes.get("variant", "full"))
    return dataclasses.replace(truth, key=key, **changes)


def paired(**changes) -> PairedDifference:
    values = {"n": 6, "n_patients": 6, "mean": 0.5, "low": 0.4, "high": 0.6, "p": 0.0}
    return PairedDifference(**{**values, **changes})


def summary(**changes) -> Summary:
    values = {"n": 6, "mean": 0.9, "sd": 0.1, "quartiles": (0.8, 0.9, 1.0)}
    return Summary(**{**values, **changes})


CHOSEN = ChosenModel(variant="ema", among=("ema", "full"), n=6, dice=1.0, low=1.0, high=1.0)

LIES = {
    "more cases than there are": lie(n_cases=HUGE, metrics={"dice": summary(n=HUGE)}),
    "more cases in a distribution": lie(metrics={"dice": summary(n=HUGE)}),
    "no spread at all": lie(metrics={"dice": summary(sd=0.0)}),
    "a spread next to nothing": lie(metrics={"dice": summary(sd=1e-300)}),
    "a spread beyond all": lie(metrics={"dice": summary(sd=1e9)}),
    "Dice beyond 1": lie(metrics={"dice": summary(mean=1e9, quartiles=(0.0, 1.0, 1e9))}),
    "Dice below 0": lie(metrics={"dice": summary(mean=-1e9, quartiles=(-1e9, 0.0, 1.0))}),
    "unknown metrics": lie(metrics={"beauty": summary(), "<b>": summary()}),
    "unknown classes": lie(metrics_by_class={"<script>": {"dice": summary()}, "b": {}}),
    "distances beyond all": lie(metrics={"hd95_mm": summary(mean=9e9, sd=9e9)}),
    "against a model that was never scored": lie(against={"ema": {"dice": paired()}}),
    "against itself": lie(against={"full": {"dice": paired()}}),
    "against a model of nobody": lie(against={"of-nobody": {"dice": paired()}}),
    "a difference beyond 1": lie(against={"local": {"dice": paired(mean=7.0, high=9.0)}}),
    "a difference of more cases": lie(against={"local": {"dice": paired(n=HUGE, n_patients=HUGE)}}),
    "a difference of no width": lie(against={"local": {"dice": paired(low=0.5, high=0.5)}}),
    "a choice of what was never scored": lie(chosen=CHOSEN),
    "a version far ahead": lie(version=10**6),
    "models of nobody": lie(variant="of-nobody"),
    "no scores": lie(mean_dice=None, n_cases=0, metrics={}, against={}, classes={}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_ends_no_report_and_changes_nobody_elses_numbers(finished, name):
    honest, _ = state_with(finished)
    state, sizes = state_with(finished, LIES[name])
    assert LIES[name].key not in state.rejected
    report = collect(state, sizes)
    page = render(report, made_at="2026-01-31T12:00:00Z")
    assert "<b>" not in page
    assert "nobody" not in page[: page.index('id="rounds"')]
    assert {name for row in report.comparison.models for name in row.classes} == {"organ"}
    assert page.count("<script") == 2
    assert json.dumps(dataclasses.asdict(report.comparison), allow_nan=False)
    told, truth = report.comparison, collect(honest, {}).comparison
    for mine, theirs in ((told.models, truth.models), (told.differences, truth.differences)):
        assert [r for r in mine if r.site != LIAR] == [r for r in theirs if r.site != LIAR]
    summarize(state, sizes)
    fold = CardFold(state, state.newest, state.models[state.newest].weights_sha256)
    assert model_card([fold], folder="x", commands=["predict"])
    over_sites = {row.model: row.effects for row in told.pooled}["full"]
    lowest, highest = 0.7, 0.95  # of the honest ones, with their errors
    assert lowest < over_sites.mean < highest


def test_who_names_more_cases_than_announced_is_named(finished):
    state, sizes = state_with(finished, LIES["more cases than there are"])
    report = collect(state, sizes)
    assert report.comparison.left_out == (LIAR,)
    assert (
        f"Scores of {LIAR} are left out: they are of more cases than the site has announced."
        in report.comparison.paragraphs
    )
    assert summarize(state, sizes).validated_dice == pytest.approx(0.802, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"against": {"local": {"dice": {**dataclasses.asdict(paired(low=0.7)), "extra": {}}}}},
        {"metrics": {"dice": {"n": 6, "mean": 1e308, "sd": 0.1, "quartiles": [0, 0, 0]}}},
        {"chosen": {"variant": "full", "among": [], "n": 1, "dice": 1, "low": 1, "high": 1}},
    ],
)
def test_what_is_impossible_by_itself_is_refused_when_it_is_read(finished, changes):
    store = MemoryStore(clock=finished.clock)
    store.objects = dict(finished.store.objects)
    publish(finished, store, lie(), **changes)
    observer = open_study(store)
    assert lie().key in observer.refresh(everything=True).rejected
