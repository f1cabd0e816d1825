"""An ensemble of the models of one round, in memory: real messages around fake learning."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from fedfs.errors import UserError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.protocol import layout
from fedfs.protocol.messages import Attendance
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.charter import describe
from fedfs.roles.reader.finding import PROBLEM
from fedfs.roles.reader.log import events
from fedfs.roles.reader.privacy import disclosures
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.tensors.canonical import TensorFile, write_safetensors
from support.courier import Courier
from support.dying_store import KilledError, calls_of, kills, run_with_a_kill
from support.federation import DATASET_JSON, INITIAL, Federation

TWO = {"east": 1.0, "north": 2.0}
ONE_ROUND = {"ensemble": True, "rounds": 1}


def ensemble(folder, **options) -> Federation:
    return Federation(folder, **{**ONE_ROUND, **options}).start()


def scores(federation):
    state = federation.observe().state
    return {
        site: score.mean_dice
        for (site, _, variant), score in state.evaluations.items()
        if variant == "ensemble"
    }


def expected(federation, *members):
    """Scores by the fake learner of the mean of half-way models."""
    half = [
        {n: (v + np.float32(federation.targets[site])) / 2 for n, v in INITIAL.items()}
        for site in members
    ]
    out = {}
    for site, target in federation.targets.items():
        errors = [
            np.mean(np.abs(np.mean([one[n] for one in half], axis=0) - target)) for n in INITIAL
        ]
        out[site] = pytest.approx(1 / (1 + np.mean(errors)), rel=1e-5)
    return out


@pytest.mark.parametrize(
    "options", [{}, {"encryption": "age"}, {"encoding": "int8", "model_encoding": "bf16"}]
)
def test_every_site_scores_the_ensemble_of_what_the_updates_say(tmp_path, options):
    federation = ensemble(tmp_path, **options)
    federation.run()
    observer = federation.observe()
    state = observer.state
    sites = sorted(federation.targets)
    assert not state.rejected
    assert state.finished.members == {s: state.digests[layout.site_model(s)] for s in sites}
    for learner in federation.learners.values():
        assert learner.scored == ["east+north+south"]
    found, told = scores(federation), expected(federation, *sites)
    if options.get("encoding") == "int8":
        assert found == {s: pytest.approx(one.expected, rel=0.02) for s, one in told.items()}
    else:
        assert found == told
    if "encryption" in options:
        assert all(model.payload.is_sealed for model in state.site_models.values())
    findings = list(verify_study(observer))
    assert not [one for one in findings if one.level == PROBLEM]
    again = [one.text for one in findings if one.subject == "member north"]
    assert again == ["made again from the update of north: bit by bit the same"]
    for site, model in state.site_models.items():
        path = fetch_payload(
            observer.store, model.payload, tmp_path, max_bytes=MAX_MODEL_BYTES,
            vault=observer.vault,
        )  # fmt: skip
        with TensorFile(path) as file:
            half = (INITIAL["b.bias"] + np.float32(federation.targets[site])) / 2
            assert np.allclose(file["b.bias"], half, atol=0.05)


def test_the_aggregator_names_members_without_a_site_that_has_left(tmp_path):
    """It trained, and went before it had published its model: the others go on, all alike."""
    federation = ensemble(tmp_path)
    process = federation.process("north")
    act = process.act

    def leave(action, state):
        if type(action).__name__ == "PublishModel":
            raise KilledError
        return act(action, state)

    process.act = leave
    for name in itertools.islice(itertools.cycle(["east", "north", "south", "aggregator"]), 40):
        try:
            federation.run_process(name)
        except KilledError:
            continue
    assert "the models of north, for the ensemble" in federation.run_process("aggregator").text
    assert summarize(federation.observe().state).phase == "training"
    process.act = act
    federation.attendances["north"] = Attendance.wanted("north", "paused", "moved")
    for name in ("north", "aggregator", "east", "south"):
        federation.run_process(name)
    assert set(federation.observe().state.finished.members) == {"east", "south"}
    found = expected(federation, "east", "south")
    assert scores(federation) == {site: found[site] for site in ("east", "south")}
    federation.attendances.pop("north")
    federation.kill("north")
    assert federation.run_process("north").finished
    assert scores(federation) == found


def test_a_member_that_is_not_what_its_update_says_is_found_by_an_audit(tmp_path):
    federation = ensemble(tmp_path, targets=TWO)
    process = federation.process("north")
    publish = process._scoring._publisher.payload

    def swap(path, key_for, *, sealed_for=()):
        if "model" in path.name:
            write_safetensors(path, {n: np.zeros_like(v) for n, v in INITIAL.items()})
        return publish(path, key_for, sealed_for=sealed_for)

    process._scoring._publisher.payload = swap
    federation.run()
    problems = [one for one in verify_study(federation.observe()) if one.level == PROBLEM]
    assert [(one.subject, one.text) for one in problems] == [
        ("member north", "is not what the update of north says")
    ]


def in_turn(federation: Federation, times: int = 6) -> None:
    for name in [*TWO, "aggregator"] * times:
        federation.run_process(name)


@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_at_a_call_to_the_store_changes_nothing(tmp_path, victim):
    options = {"targets": TWO, "encryption": "age"}
    whole = ensemble(tmp_path / "whole", **options)
    calls = calls_of(whole, victim, partial(in_turn, whole))
    for k, after in kills(calls, few=True):
        federation = ensemble(tmp_path / f"{k}-{after}", **options)
        assert run_with_a_kill(federation, partial(in_turn, federation), victim, k, after=after)
        assert scores(federation) == expected(federation, *TWO), f"killed at {calls[k - 1]}"
        assert not federation.observe().state.rejected


def test_a_site_that_is_reached_by_a_courier_takes_part(tmp_path):
    courier = Courier(tmp_path, targets=TWO, encryption="age", **ONE_ROUND)
    courier.run()
    assert scores(courier.federation) == expected(courier.federation, *TWO)
    models = [key for key in courier.outpost.objects if "/model/model-" in key]
    assert len(models) == 2


def test_what_people_read_of_it(tmp_path):
    federation = ensemble(tmp_path)
    federation.run()
    observer = federation.observe()
    state = observer.state
    text = "\n".join(event.what for event in events(state))
    assert "scored the ensemble of all sites' models of the round" in text
    assert "published its model of version 1" in text
    rounds = describe(state.charter.whole())["Rounds"]
    assert "every site publishes its model" in rounds["ensemble"]
    told = {one.what: one.amount for one in disclosures(state, "north", observer.sizes)}
    assert "ensemble" in told["its model"]
    page = render(collect(state, observer.sizes), made_at="2026-01-01T00:00:00Z")
    assert "ensemble of local models" in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 2},
        {"mode": "asym"},
        {"keep_local": "norm"},
        {"configuration": "3d_lowres,3d_cascade_fullres", "fold": "all"},
    ],
)
def test_studies_that_can_have_no_ensemble(wrong):
    given = {"name": "test", "dataset_json": DATASET_JSON, **ONE_ROUND}
    with pytest.raises(UserError, match="An ensemble does not go with this"):
        StudyOptions(**{**given, **wrong})
