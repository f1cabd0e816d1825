"""The best model of a study of tracks: who scores when, who chooses, what is believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedfs.protocol import layout
from fedfs.protocol.messages import DiceSum
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.courier.sync import Sync
from fedfs.roles.loop import Outcome
from fedfs.roles.reader.choice_audit import verify_choice
from fedfs.roles.reader.finding import OK, PROBLEM
from fedfs.roles.reader.privacy import disclosures
from fedfs.roles.step import AFTER_TRACKS
from fedfs.store.memory import MemoryStore
from support.courier import Courier, quiet
from support.federation import Federation, forge
from support.four_tracks import OPTIONS, TRACKS

WAITS = Outcome(worked=False, finished=False, text="waiting")


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path, **OPTIONS).start()


def test_all_sites_score_once_and_one_model_is_chosen(federation):
    federation.run()
    state = federation.observe().state
    assert sorted(state.cross_validations) == ["east", "north", "south"]
    assert state.choice.candidate in ("2d", "3d_fullres", "2d+3d_fullres")
    assert set(state.choice.sites) == {"east", "north", "south"}
    assert state.choice.n_cases == 10 + 20 + 30
    assert state.choice.folds == ("0", "1")
    assert not state.rejected


def test_the_choice_is_that_of_the_sums(federation):
    federation.run()
    state = federation.observe().state
    for candidate, said in state.choice.dice.items():
        sums = [m.scores[candidate][""]["1"] for m in state.cross_validations.values()]
        mean = sum(one.total for one in sums) / sum(one.n for one in sums)
        assert said == pytest.approx(mean)
    assert state.choice.dice[state.choice.candidate] == max(state.choice.dice.values())


def test_nothing_is_scored_before_all_tracks_are_done(federation):
    for _ in range(400):
        for host in ("aggregator", *federation.targets):
            federation.step(host)
        over = [f"tracks/{t}/{layout.FINISHED}" in federation.store.objects for t in TRACKS]
        scored = [key for key in federation.store.objects if "cross-validation" in key]
        assert all(over) or not scored
        if layout.choice() in federation.store.objects:
            break
    assert len(scored) == 3


def test_a_site_that_scores_again_after_a_kill_changes_nothing(federation):
    federation.run()
    before = dict(federation.store.objects)
    federation.kill("north")
    assert federation.run_process("north").finished
    key = layout.cross_validation("north")
    assert federation.store.objects[key] == before[key]


def test_a_removed_site_is_not_waited_for(federation):
    north = federation.process("north").workers
    north[AFTER_TRACKS].step = north["2d-0"].step  # never gets to scoring
    for _ in range(400):
        for host in ("aggregator", *federation.targets):
            federation.step(host)
        if layout.cross_validation("east") in federation.store.objects:
            break
    outcome = federation.run_process("aggregator")
    assert "the cross-validation of north" in outcome.text
    home = federation.home("coordinator")
    coordinator = Coordinator(federation.store, home, clock=federation.clock)
    set_state(coordinator, ["north"], "paused")
    assert federation.run_process("aggregator").finished
    assert set(federation.observe().state.choice.sites) == {"east", "south"}


def test_a_study_whose_sites_are_all_away_waits_for_one_to_come_back(federation):
    for site in federation.targets:
        federation.process(site).workers[AFTER_TRACKS].step = lambda: WAITS
    for _ in range(400):
        for host in ("aggregator", *federation.targets):
            federation.step(host)
        if all(f"tracks/{track}/{layout.FINISHED}" in federation.store.objects for track in TRACKS):
            break
    home = federation.home("coordinator")
    coordinator = Coordinator(federation.store, home, clock=federation.clock)
    set_state(coordinator, list(federation.targets), "paused")
    for _ in range(2):
        outcome = federation.run_process("aggregator")
    assert not outcome.finished
    assert "the cross-validation of a site: all are paused or have left" in outcome.text
    set_state(coordinator, ["north"], "active")
    federation.kill("north")
    federation.run_process("north")
    assert federation.run_process("aggregator").finished


def test_fold_all_has_no_cases_to_choose_by(tmp_path):
    federation = Federation(tmp_path, configuration="2d,3d_fullres", fold="all", rounds=1).start()
    federation.run()
    assert federation.observe().state.choice is None


def test_scores_are_no_others_word(federation):
    federation.run()
    store = federation.store
    forge(
        store, layout.cross_validation("east"), store.objects[layout.cross_validation("north")].data
    )
    state = federation.observe().state
    assert "east" not in state.cross_validations
    assert layout.cross_validation("east") in state.rejected


@pytest.mark.parametrize(("total", "n"), [(21.0, 21), (3.0, 2), (-1.0, 2), (1.0, -1)])
def test_sums_that_cannot_be_are_refused(federation, monkeypatch, total, n):
    honest = federation.cross_validate

    def lie(site, report):
        found = honest(site, report)
        scores = {**found.scores, "2d": {"": {"1": DiceSum(total, n)}}}
        return replace(found, scores=scores) if site == "north" else found

    monkeypatch.setattr(federation, "cross_validate", lie)
    for _ in range(400):
        for host in ("aggregator", *federation.targets):
            if host == "north" and layout.cross_validation("north") in federation.store.objects:
                continue  # it would ask for its operator
            federation.step(host)
        if len([key for key in federation.store.objects if "cross-validation" in key]) == 3:
            break
    outcome = federation.run_process("aggregator")
    assert "the cross-validation of north" in outcome.text
    rejected = federation.observe().state.rejected[layout.cross_validation("north")]
    assert "impossible sum of Dice" in rejected


def test_privacy_tells_of_the_scores(federation):
    federation.run()
    observer = federation.observe()
    observer.refresh(everything=True)
    found = {d.what: d for d in disclosures(observer.state, "north", observer.sizes)}
    assert "20 cases" in found["cross-validation"].amount
    assert found["cross-validation"].n_bytes > 0


def test_verify_chooses_again(federation):
    federation.run()
    observers = {track: federation.observe(track=track) for track in TRACKS}
    findings = list(verify_choice(federation.observe(), observers))
    assert [finding.level for finding in findings] == [OK]
    common = federation.observe()
    common.state.choice = replace(common.state.choice, candidate="2d+3d_fullres", steps=("1",))
    assert [one.level for one in verify_choice(common, observers)] == [PROBLEM]


def same_models(one, other):
    for track in TRACKS:
        state = other.observe(track=track).state
        assert state.finished is not None
        assert (
            state.models[2].weights_sha256
            == one.observe(track=track).state.models[2].weights_sha256
        )
    assert one.observe().state.choice.dice == other.observe().state.choice.dice


def test_a_stick_carries_all_tracks(federation, tmp_path):
    federation.run()
    courier = Courier(tmp_path / "carried", **OPTIONS)
    courier.run()
    same_models(federation, courier.federation)
    assert not any("tracks/" in key and "/south/" in key for key in courier.outpost.objects)


def test_sync_carries_all_tracks(federation, tmp_path):
    federation.run()
    synced = Federation(tmp_path / "synced", **OPTIONS).start()
    outpost = MemoryStore(name="outpost", clock=synced.clock)
    sync = Sync(synced.store, outpost, ["north"], on_progress=quiet)
    sync.step()
    synced.processes["north"] = synced.new_process("north", outpost)
    for _ in range(300):
        for host in ("aggregator", *synced.targets):
            synced.step(host)
        if sync.step().finished:
            break
    synced.run_process("aggregator")
    same_models(federation, synced)
