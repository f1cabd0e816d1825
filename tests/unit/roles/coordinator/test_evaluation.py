"""Studies that train nothing, in memory: from the charter to the page that compares the models."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from fedfs.errors import MalformedError, StudyError, UserError
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Attendance
from fedfs.roles.coordinator import evaluation as module
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import draft_study
from fedfs.roles.coordinator.evaluation import TRACK, evaluation_options, read_models
from fedfs.roles.coordinator.keys import replace_aggregator_key
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites, set_state
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.charter import describe
from fedfs.roles.reader.export import export_versions
from fedfs.roles.reader.finding import PROBLEM
from fedfs.roles.reader.log import events
from fedfs.roles.reader.privacy import disclosures
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.roles.site.join import ask_for_new_key
from fedfs.store.memory import MemoryStore
from support.courier import Courier, index_of
from support.dying_store import calls_of, kills, run_with_a_kill
from support.federation import DATASET_JSON, Federation, forge, with_keys_of_charter
from support.given_models import MODELS, evaluation, given_models

TWO = {"east": 1.0, "north": 2.0}


def scored(federation: Federation) -> dict[tuple[str, str], float | None]:
    return {(s, v): m.mean_dice for (s, _, v), m in federation.observe().state.evaluations.items()}


def expected(federation: Federation) -> dict[tuple[str, str], float]:
    """Scores by the fake learner: folds are averaged, and the nearer to its target the better."""
    return {
        (site, f"of-{name}"): pytest.approx(1 / (1 + abs(sum(v) / len(v) - target)))
        for site, target in federation.targets.items()
        for name, v in MODELS.items()
    }


def coordinator(federation: Federation) -> Coordinator:
    return Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)


@pytest.mark.parametrize("encryption", ["", "age"])
def test_every_site_scores_all_models_and_the_study_closes_with_these_scores(tmp_path, encryption):
    federation = evaluation(tmp_path, encryption=encryption).start()
    federation.run()
    state = federation.observe().state
    assert scored(federation) == expected(federation)
    assert not state.rejected
    assert (state.newest, state.plan, state.fingerprints) == (-1, None, {})
    assert state.finished.scores == {
        m.key: state.digests[m.key] for m in state.evaluations.values()
    }
    assert not [k for k in federation.store.objects if "fingerprint" in k or "update" in k]
    for learner in federation.learners.values():
        assert learner.scored == list(MODELS)
        assert learner.calls == []
    later = state.evaluations["north", 0, "of-theirs"]
    assert later.against["of-ours"]["dice"].n == later.metrics["dice"].n > 0
    if encryption:
        charter = state.charters[1]
        assert all(one.payload.is_sealed for model in charter.given for one in model.folds)
        assert not any(model.plans for model in charter.given)


def test_a_site_that_came_when_others_had_scored_is_waited_for_and_can_decrypt(tmp_path):
    federation = evaluation(tmp_path, encryption="age")
    federation.join("east", "north")
    federation.approve()
    for name in ("east", "north"):
        federation.run_process(name)
    federation.join("south")
    federation.approve("south")
    assert "the scores of south" in federation.run_process("aggregator").text
    federation.run()
    assert scored(federation) == expected(federation)


def test_a_site_that_comes_after_the_end_scores_all_the_same(tmp_path):
    federation = evaluation(tmp_path, min_sites=2)
    federation.join("east", "north")
    federation.approve()
    for name in ("east", "north", "aggregator", "east", "north"):
        federation.run_process(name)
    assert federation.observe().state.finished is not None
    federation.join("south")
    federation.approve("south")
    assert federation.run_process("south").finished
    assert scored(federation) == expected(federation)
    state = federation.observe().state
    assert "south" not in " ".join(state.finished.scores)
    assert summarize(state).waiting_for == ()


def test_too_few_sites_do_not_close_a_study(tmp_path):
    federation = evaluation(tmp_path, min_sites=3)
    federation.join("east", "north")
    federation.approve()
    for name in ("east", "north"):
        federation.run_process(name)
    assert "2 of 3 sites have scored" in federation.run_process("aggregator").text
    assert summarize(federation.observe().state).phase == "joining"


def test_nobody_waits_for_a_site_that_is_away(tmp_path):
    federation = evaluation(tmp_path, min_sites=1).start()
    federation.attendances["north"] = Attendance.wanted("north", "paused", "moving")
    set_state(coordinator(federation), ["south"], "paused")
    for name in ("north", "south", "east"):
        federation.run_process(name)
    assert federation.run_process("aggregator").finished
    assert {site for site, _ in scored(federation)} == {"east"}
    assert federation.observe().state.finished.away == ("north",)
    federation.attendances.pop("north")
    set_state(coordinator(federation), ["south"], "active")
    for name in ("north", "south"):
        assert federation.run_process(name).finished
    assert scored(federation) == expected(federation)


def test_a_removed_sites_scores_count_only_where_the_study_was_closed_with_them(tmp_path):
    federation = evaluation(tmp_path, min_sites=1).start()
    for site in federation.targets:
        federation.run_process(site)
    set_state(coordinator(federation), ["north"], "removed")
    assert {site for site, _ in scored(federation)} == {"east", "south"}
    federation.run_process("aggregator")
    set_state(coordinator(federation), ["south"], "removed")
    assert {site for site, _ in scored(federation)} == {"east", "south"}


def test_keys_may_be_replaced_while_sites_score(tmp_path):
    federation = evaluation(tmp_path, encryption="age").start()
    federation.step("north")  # has scored one of two models
    for site, is_lost in {"north": False, "south": True}.items():
        ask_for_new_key(
            federation.store, federation.keyring(site), site, is_lost=is_lost,
            clock=federation.clock,
        )  # fmt: skip
        approve_sites(coordinator(federation), [site], replace_keys=is_lost)
    federation.step("east")
    replace_aggregator_key(coordinator(federation))
    with_keys_of_charter(federation)
    federation.run()
    assert scored(federation) == expected(federation)
    state = federation.observe().state
    assert not state.rejected
    assert len(state.finished.scores) == 6


def test_fewer_cases_than_the_charter_asks_for_publish_no_scores(tmp_path):
    federation = evaluation(tmp_path, minimum_cases=15).start()
    with pytest.raises(Exception, match="at least 15 before scores may be published"):
        federation.run_process("east")  # has 10
    assert scored(federation) == {}


def in_turn(federation: Federation, times: int = 4) -> None:
    for name in [*TWO, "aggregator"] * times:
        federation.run_process(name)


@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_at_each_kind_of_call_to_the_store_changes_nothing(tmp_path, victim):
    options = {"targets": TWO, "encryption": "age"}
    whole = evaluation(tmp_path / "whole", **options).start()
    calls = calls_of(whole, victim, partial(in_turn, whole))
    for k, after in kills(calls):
        federation = evaluation(tmp_path / f"{k}-{after}", **options).start()
        assert run_with_a_kill(federation, partial(in_turn, federation), victim, k, after=after)
        assert scored(federation) == expected(federation), f"killed at {calls[k - 1]}"
        state = federation.observe().state
        assert not state.rejected
        assert len(state.finished.scores) == 4


def test_a_model_that_cannot_be_scored_stops_nobody(tmp_path):
    federation = evaluation(tmp_path).start()
    learner = federation.learners["north"]
    score = learner.score_given

    def refuse(network, on_progress):
        if network.name == "ours":
            raise MalformedError("is not allowed", about="the architecture.network_class_name")
        return score(network, on_progress)

    learner.score_given = refuse
    federation.run()
    state = federation.observe().state
    assert state.evaluations["north", 0, "of-ours"].n_cases == 0
    assert scored(federation)["north", "of-ours"] is None
    assert scored(federation)["north", "of-theirs"] is not None


def test_a_payload_that_is_damaged_is_waited_for(tmp_path):
    federation = evaluation(tmp_path).start()
    key = next(key for key in federation.store.objects if "federation/model-" in key)
    whole = federation.store.objects[key].data
    forge(federation.store, key, whole[:-1])
    outcome = federation.run_process("north")
    assert "damaged" in outcome.text
    forge(federation.store, key, whole)
    federation.run()
    assert scored(federation) == expected(federation)


def test_what_people_read_of_it(tmp_path):
    federation = evaluation(tmp_path).start()
    before = summarize(federation.observe().state)
    assert (before.phase, before.waiting_for) == ("evaluating", ("east", "north", "south"))
    federation.run()
    observer = federation.observe()
    state = observer.state
    view = summarize(state, observer.sizes)
    assert (view.phase, view.waiting_for) == ("finished", ())
    assert view.given_dice["ours"]["east"] == 1.0
    text = "\n".join(event.what for event in events(state))
    assert "evaluation of ours, theirs" in text
    assert "scored the model ours" in text
    assert "closed the study with 6 scores" in text
    models = describe(state.charter.whole())["Models"]
    assert "folds 0, 1" in models["theirs"]
    assert "nothing is trained" in models["mode"]
    told = {one.what: one for one in disclosures(state, "north", observer.sizes)}
    assert told.keys() == {"join request", "scores", "distributions", "statuses"}
    report = collect(state, observer.sizes)
    assert {row.model: row.dice for row in report.matrix} == view.given_dice
    page = render(report, made_at="2026-01-01T00:00:00Z")
    assert "Each model at each site" in page
    assert "The model ours has a mean Dice of" in page
    findings = list(verify_study(federation.observe()))
    assert not [one for one in findings if one.level == PROBLEM]
    assert any(one.text == "6 of 6 are those the study closed with" for one in findings)
    with pytest.raises(StudyError, match="makes no model"):
        export_versions(federation.store, tmp_path / "out")


def test_scores_that_are_exchanged_afterwards_are_found_by_an_audit(tmp_path):
    federation = evaluation(tmp_path).start()
    federation.run()
    key = layout.evaluation("north", 0, "of-ours")
    score = federation.observe().state.evaluations["north", 0, "of-ours"]
    better = dataclasses.replace(score, mean_dice=1.0)
    signed = federation.keyring("north").load("site-north").sign(better)
    forge(federation.place, key, signed)
    problems = [one for one in verify_study(federation.observe()) if one.level == PROBLEM]
    assert [(one.subject, one.text) for one in problems] == [
        (key, "is not what the aggregator closed the study with")
    ]


def test_a_site_without_a_network_gets_the_models_in_a_bundle(tmp_path):
    models = given_models(tmp_path / "given")
    courier = Courier(tmp_path, evaluates=models, targets=TWO, encryption="age")
    courier.run()
    assert scored(courier.federation) == expected(courier.federation)
    assert courier.federation.observe().state.finished is not None
    given = [key for key in courier.outpost.objects if key.startswith("federation/model-")]
    assert len(given) == 3
    path, _ = courier.export("for")
    names = [item.key for item in index_of(courier, path).items]
    assert not [key for key in names if "federation/model-" in key]  # it has scored them


def test_a_draft_says_what_will_be_published_and_writes_nothing(tmp_path):
    store, models = MemoryStore(clock=lambda: 1.0), given_models(tmp_path)
    options = StudyOptions(**evaluation_options(models, {"name": "test", "min_sites": 3}))
    charter = draft_study(store, options, versions={}, evaluates=models)
    assert (charter.mode, [track.name for track in charter.tracks]) == ("evaluate", [TRACK])
    assert describe(charter)["Study"]["sites"] == "the end waits for 3 sites"
    assert charter.dataset.name == "Dataset042_Organ"
    assert not store.objects


def test_charters_that_contradict_themselves_or_change_their_models_are_refused(tmp_path):
    federation = evaluation(tmp_path).start()
    charter = federation.observe().state.charter.whole()
    for changes in ({"mode": "ffe"}, {"given": ()}, {"given": (charter.given[0],) * 2}):
        with pytest.raises(MalformedError):
            dataclasses.replace(charter, **changes).check()
    (fold, *_), key = charter.given[0].folds, layout.charter(3)
    other = dataclasses.replace(charter.given[0], folds=(dataclasses.replace(fold, fold="4"),))
    forged = dataclasses.replace(
        charter, number=3, key=key, given=(other, *charter.given[1:]),
        previous_sha256=federation.observe().state.digests[charter.key],
    )  # fmt: skip
    signed = federation.keyring("coordinator").load("coordinator").sign(forged)
    federation.store.create(key, signed)
    rejected = federation.observe().state.rejected
    assert "changes the models that the study evaluates" in rejected[key]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["2d=a", "x/T__P__2d"], "Two models are called '2d'"),
        (["A b=x"], "A model cannot be called 'A b'"),
        (["---"], "gives no name"),
    ],
)
def test_names_of_models_that_cannot_be_used(tmp_path, texts, says):
    with pytest.raises(UserError, match=says):
        read_models(texts, tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("results/Dataset042_Organ/nnUNetTrainer__nnUNetPlans__3d_fullres", "3d-fullres"),
        ("Organ v2.zip", "organ-v2"),
        ("ours=x.zip", "ours"),
        ("a=b/c.zip", "a"),
        ("./a=b/c.zip", "c"),
    ],
)
def test_a_model_is_called_as_its_coordinator_says_or_as_its_place(text, name):
    assert module._name_and_place(text)[0] == name


def test_models_for_other_images_are_no_study(tmp_path, monkeypatch):
    made = iter(given_models(tmp_path))
    other = {**DATASET_JSON, "labels": {"background": 0, "tumour": 1}}

    def read(function, request, *, workdir):
        model = next(made).model
        return vars(model if request.path.endswith("a") else
                    dataclasses.replace(model, dataset_json=other))  # fmt: skip

    monkeypatch.setattr(module, "run_isolated", read)
    with pytest.raises(UserError, match="are not for the same images"):
        read_models(["a", "b"], tmp_path)


def test_the_message_of_a_given_model_survives_what_it_does_not_know(tmp_path):
    charter = evaluation(tmp_path).charter
    data = messages.encode(charter)
    again = messages.decode(messages.Charter, data, key=charter.key, study=charter.study)
    assert again == charter
