"""What sites compare in the end: models trained alone, and models of other sites."""

from __future__ import annotations

import itertools
import math

import pytest

from fedfs.errors import TensorError, UserError
from fedfs.learner import EvaluationResult
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Attendance, SiteModel
from fedfs.protocol.track_place import split_track
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.reader.log import events
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.roles.site.fine_tuning import FineTuning
from support.courier import Courier
from support.dying_store import KilledError
from support.federation import N_VALIDATED, Federation
from support.unlike_networks import NETWORKS, TARGETS

CROSS = {"mode": "asym", "min_coverage": 0.1, "cross_evaluation": True}


def asym(folder, **options) -> Federation:
    return Federation(folder, targets=TARGETS, networks=NETWORKS, **{**CROSS, **options}).start()


def test_a_site_that_wants_to_trains_alone_with_the_budget_of_all_rounds(tmp_path):
    federation = Federation(tmp_path, alone=("north",)).start()
    federation.run()
    observer = federation.observe()
    state = observer.state
    assert [(s, v) for s, v, variant in state.evaluations if variant == "local"] == [("north", 3)]
    alone = federation.alone["north"]
    assert [call for call, _ in alone.calls] == ["prepare", "train", "finish"]
    assert alone.seen[0].keys() == federation.weights(0).keys()
    assert all(
        (alone.seen[0][name] == value).all() for name, value in federation.weights(0).items()
    )
    report = collect(state, observer.sizes)
    (row,) = report.local
    assert (row.site, row.local, row.federated) == (
        "north",
        state.evaluations["north", 3, "local"].mean_dice,
        state.evaluations["north", 3, "full"].mean_dice,
    )
    assert row.gain == row.federated - row.local
    assert not state.rejected


def test_a_personal_model_is_the_last_version_trained_further_and_stays_here(tmp_path):
    federation = Federation(tmp_path, personal={"north": FineTuning(0.5, 1e-4)}, rounds=4).start()
    federation.run()
    tuned, last = federation.personal["north"], federation.weights(4)
    assert [call for call, _ in tuned.calls] == ["prepare", "train", "finish"]
    assert all((tuned.seen[4][name] == value).all() for name, value in last.items())
    (task,) = tuned.tasks
    assert (task.first_epoch, task.n_epochs, task.total_epochs) == (0, 2, 2)
    assert task.learning_rate == 1e-4
    assert all(one.learning_rate is None for one in federation.learners["north"].tasks)
    variants = {variant for _, _, variant in federation.observe().state.evaluations}
    assert variants == {"pseudo", "full"}


def test_a_personal_model_is_made_once_of_the_same_weights_in_the_same_way(tmp_path):
    federation = Federation(tmp_path, personal={"north": FineTuning()}).start()
    tuned = federation.personal["north"]
    finish, tuned.finish = tuned.finish, lambda *_: 1 / 0  # killed between training and its record
    with pytest.raises(ZeroDivisionError):
        federation.run()
    tuned.finish = finish
    federation.kill("north")
    federation.run()
    assert [call for call, _ in tuned.calls].count("finish") == 1
    federation.kill("north")
    assert federation.step("north").finished
    federation.tunings["north"] = FineTuning(share=1.0)
    federation.kill("north")
    federation.run_process("north")
    assert [task.n_epochs for task in tuned.tasks] == [1, 1, 3]


@pytest.mark.parametrize("values", [(0, 1e-3), (-1, 1e-3), (0.25, 0), (0.25, 2), (math.nan, 1e-3)])
def test_impossible_fine_tuning_is_refused(values):
    with pytest.raises(UserError):
        FineTuning(*values)


def test_a_local_model_beside_a_personal_one_has_the_budget_of_both_parts(tmp_path):
    federation = Federation(
        tmp_path, alone=("north",), personal={"north": FineTuning(0.5)}, rounds=4
    ).start()
    federation.run()
    (task,) = federation.alone["north"].tasks
    assert (task.n_epochs, task.total_epochs) == (6, 6)
    observer = federation.observe()
    assert observer.state.evaluations["north", 4, "local"].budget == 1.5
    (row,) = collect(observer.state, observer.sizes).local
    assert row.budget == 1.5


@pytest.mark.parametrize("unscored", [("north",), ("east", "north", "south")])
def test_a_site_that_trains_on_its_only_case_counts_in_no_mean(tmp_path, unscored):
    federation = Federation(tmp_path, alone=("north",)).start()
    learners = [federation.learners[site] for site in unscored]
    for learner in (*learners, federation.alone["north"]):
        learner._score = lambda _: EvaluationResult.unscored()
    federation.run()
    observer = federation.observe()
    state, report = observer.state, collect(observer.state, observer.sizes)
    assert all(state.is_validated(site, 3) for site in federation.targets)
    scored = set(federation.targets) - {*unscored}
    means = [state.evaluations[site, 3, "pseudo"].mean_dice for site in scored]
    if means:
        assert summarize(state).mean_dice["3"] == pytest.approx(sum(means) / len(means))
    else:
        assert summarize(state).mean_dice == {}
    for row in report.sites:
        assert (row.n_validation_cases == 0) == (row.final_mean is None) == (row.site in unscored)
        assert (row.last_dice is None) == (row.site in unscored)
    assert [(row.local, row.federated, row.gain) for row in report.local] == [(None, None, None)]
    said = [e.who for e in events(state) if e.what == "validated in full version 3: no scores"]
    assert sorted(said) == sorted(unscored)
    assert render(report, made_at="now")


def test_training_alone_goes_on_after_a_kill_and_happens_once(tmp_path):
    federation = Federation(tmp_path, alone=("north",)).start()
    federation.run()
    federation.kill("north")
    assert federation.step("north").finished
    del federation.place.objects[layout.evaluation("north", 3, "local")]
    federation.kill("north")
    assert "adopted" in federation.step("north").text
    assert "a model of this site's data alone" in federation.step("north").text
    federation.run_process("north")
    assert layout.evaluation("north", 3, "local") in federation.place.objects


def test_version_0_stays_for_those_who_train_alone_later(tmp_path):
    federation = Federation(tmp_path, alone=("north",)).start()
    federation.process("aggregator")._keep_versions = 1
    federation.run()
    kept = {
        layout.parse(key).version
        for key in federation.place.objects
        if (layout.parse(key) or layout.parse(layout.charter(1))).kind == "model-payload"
    }
    assert {0, 3} <= kept < {0, 1, 2, 3}


@pytest.mark.parametrize("options", [{}, {"encryption": "age"}], ids=["open", "encrypted"])
def test_every_model_is_scored_at_every_site(tmp_path, options):
    federation = asym(tmp_path, **options)
    federation.run()
    observer = federation.observe()
    state = observer.state
    for site, of in itertools.permutations(TARGETS, 2):
        assert (site, 3, layout.score_of(of)) in state.evaluations
    report = collect(state, observer.sizes)
    assert [row.model for row in report.matrix] == sorted(TARGETS)
    for row in report.matrix:
        assert list(row.dice) == sorted(TARGETS)
        assert row.dice[row.model] == state.evaluations[row.model, 3, "full"].mean_dice
        assert None not in row.dice.values()
        assert row.mean == pytest.approx(sum(row.dice.values()) / 4)
    assert all(
        set(one.scored) == {state.charter.dataset.name} for one in federation.learners.values()
    )
    assert "its model" in [what for what, _, _ in report.disclosures]
    assert not state.rejected
    assert sum("scored the model of" in event.what for event in events(state)) == 4 * 3
    stranger = federation.observe("stranger").state
    assert bool(options) == (stranger.site_models["east"].plans == {})


def test_a_published_model_tells_no_extreme_voxel(tmp_path):
    federation = asym(tmp_path)
    federation.run()
    plans = federation.observe().state.site_models["north"].plans
    assert plans["foreground_intensity_properties_per_channel"] == {"0": {"mean": 100.0}}


def test_a_site_reads_of_other_sites_nothing_but_their_models(tmp_path):
    federation = asym(tmp_path)
    federation.run()
    seen = federation.process("north")._observer
    others = [key for key in seen.keys if key.startswith("sites/") and "/north/" not in key]
    assert others
    assert {key.split("/")[2] for key in others} == {"model"}


def test_without_the_charter_asking_nobody_publishes_its_model(tmp_path):
    federation = asym(tmp_path, cross_evaluation=False)
    federation.run()
    assert not any(
        layout.parse(k) and "model" in layout.parse(k).kind and layout.parse(k).site
        for k in federation.place.objects
    )
    state = federation.observe().state
    assert collect(state, {}).matrix == ()
    publisher = federation.publisher("site-east", "east")
    ref = state.updates["east", 0].payload
    publisher.publish(
        SiteModel(key=layout.site_model("east"), site="east", version=3, payload=ref, plans={}),
    )
    after = federation.observe().state
    assert "does not ask" in after.rejected[layout.site_model("east")]


def test_a_payload_from_another_place_is_refused(tmp_path):
    federation = asym(tmp_path)
    while federation.observe().state.newest < 0:
        for name in ("aggregator", *TARGETS):
            federation.run_process(name)
    ref = federation.observe().state.updates["east", 0].payload
    federation.publisher("site-east", "east").publish(
        SiteModel(key=layout.site_model("east"), site="east", version=3, payload=ref, plans={}),
    )
    rejected = federation.observe().state.rejected
    assert "outside its own place" in rejected[layout.site_model("east")]


def test_a_model_that_cannot_be_used_stops_nobody(tmp_path, monkeypatch, caplog):
    federation = asym(tmp_path)
    learner = federation.learners["north"]
    score = learner.score

    def refuse(plans, tensors, report):
        if "decoder.seg_layers.1.bias" in plans["tensors"]:
            raise TensorError("holds a value that is not finite")
        return score(plans, tensors, report)

    monkeypatch.setattr(learner, "score", refuse)
    federation.run()
    observer = federation.observe()
    said = observer.state.evaluations["north", 3, "of-east"]
    assert (said.n_cases, said.mean_dice) == (0, None)
    assert "the model of east cannot be scored: the payload holds a value" in caplog.text
    row = next(row for row in collect(observer.state, observer.sizes).matrix if row.model == "east")
    assert row.dice["north"] is None
    assert row.dice["west"] is not None


def test_sites_wait_for_models_until_the_coordinator_lets_them_go_on(tmp_path):
    federation = asym(tmp_path)
    names = ["aggregator", "east", "south", "west"]
    for _ in range(40):
        for name in names:
            federation.run_process(name)
        if federation.observe().state.newest < 3:
            federation.run_process("north")
    state = federation.observe().state
    assert state.finished is not None
    assert "the models of north" in federation.run_process("east").text
    assert not participation.is_over(state, ["east"])
    home = federation.home("coordinator")
    coordinator = Coordinator(federation.store, home, clock=federation.clock)
    set_state(coordinator, ["north"], "paused")
    assert federation.run_process("east").finished
    assert participation.is_over(federation.observe().state, ["east"])


def test_a_site_with_a_stick_only_scores_and_is_scored_too(tmp_path):
    courier = Courier(tmp_path, targets=TARGETS, networks=NETWORKS, **CROSS)
    courier.run()
    state = courier.federation.observe().state
    for site, of in itertools.permutations(TARGETS, 2):
        assert (site, 3, layout.score_of(of)) in state.evaluations
    assert participation.is_over(state, TARGETS)
    assert not state.rejected
    others = {
        key.split("/")[2]
        for _, key in map(split_track, courier.outpost.objects)
        if key.startswith("sites/") and "/north/" not in key
    }
    assert others == {"model"}


def test_it_is_for_sites_with_networks_of_their_own():
    with pytest.raises(UserError, match="for the mode asym") as caught:
        StudyOptions(
            name="test",
            dataset_json={"channel_names": {}, "labels": {}, "file_ending": ".nii.gz"},
            cross_evaluation=True,
        )
    assert "every site scores the one model anyway" in caught.value.hint


def test_the_model_of_a_site_that_left_is_not_waited_for(tmp_path):
    federation = asym(tmp_path, rounds=1)
    while ("north", 0) not in federation.observe().state.updates:
        for name in (*federation.targets, "aggregator"):
            federation.step(name)
    federation.attendances["north"] = Attendance.wanted("north", "left", "no time")
    federation.run_process("north")
    federation.run()
    state = federation.observe().state
    assert "north" in {update.site for update in state.rounds[1].updates}
    assert "north" not in state.site_models
    assert state.finished.away == ("north",)


def test_the_scores_of_a_personal_model_are_published_where_the_site_wants_it(tmp_path):
    federation = Federation(
        tmp_path, personal={"north": FineTuning(0.5)}, publishes_personal=("north",), rounds=4
    ).start()
    federation.run()
    score = federation.observe().state.evaluations["north", 4, "personal"]
    assert (score.budget, score.n_cases) == (0.5, N_VALIDATED)
    federation.tunings["north"] = FineTuning(1.0)
    federation.kill("north")
    federation.run_process("north")
    assert len(federation.personal["north"].tasks) == 2  # made again, and not published again
    assert federation.observe().state.evaluations["north", 4, "personal"] == score


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_personal_model_that_was_not_published_yet_is_not_made_again(tmp_path, after):
    """Killed at the publication of its scores."""
    options = {"personal": {"north": FineTuning()}, "publishes_personal": ("north",)}
    federation = Federation(tmp_path, **options).start()
    while (("north", 3, "full")) not in federation.observe().state.evaluations:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    process = federation.new_process("north")
    publish = process._scoring._publish

    def die(*args, **given):
        if after:
            publish(*args, **given)
        raise KilledError

    process._scoring._publish = die
    federation.processes["north"] = process
    with pytest.raises(KilledError):
        federation.run_process("north")
    federation.kill("north")
    federation.run()
    tuned = federation.personal["north"]
    assert [call for call, _ in tuned.calls] == ["prepare", "train", "finish"]
    assert federation.observe().state.evaluations["north", 3, "personal"].n_cases == N_VALIDATED
