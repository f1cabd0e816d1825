"""The best configuration of a study with secure scores: chosen of totals, without new messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedfs.errors import StudyError
from fedfs.exchange.choose_configuration import choose_by_totals
from fedfs.protocol.messages import ScoreTotal
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.choice_audit import verify_choice
from fedfs.roles.reader.finding import OK, PROBLEM
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render_overview
from fedfs.roles.reader.report.overview import overview
from fedfs.roles.reader.status import summarize
from support import invariants
from support.federation import HELPER, Federation
from support.four_tracks import OPTIONS, TRACKS

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
SECURE = {
    **OPTIONS, "secure_sums": True, "secure_scores": True, "encryption": "age", "rounds": 1,
    "targets": TARGETS,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Is changed by no test."""
    federation = Federation(tmp_path_factory.mktemp("totals"), **SECURE).start()
    federation.run()
    return federation


def totals(federation: Federation) -> dict[str, ScoreTotal]:
    return {t: federation.observe(track=t).state.finished.totals["full"] for t in TRACKS}


def test_the_choice_has_the_highest_mean_of_totals(finished):
    choice, found = finished.observe().state.choice, totals(finished)
    assert not any(one.fault for one in found.values())
    for configuration in ("2d", "3d_fullres"):
        of = [found[f"{configuration}-{fold}"].classes["organ"] for fold in (0, 1)]
        mean = sum(one.total for one in of) / sum(one.n for one in of)
        assert choice.dice[configuration] == pytest.approx(mean, abs=1e-15)
    assert set(choice.dice) == {"2d", "3d_fullres"}
    assert choice.dice["2d"] != choice.dice["3d_fullres"]
    assert choice.dice_after == choice.dice[choice.candidate] == max(choice.dice.values())
    assert (choice.steps, choice.folds, dict(choice.sites)) == ((), ("0", "1"), {})
    assert choice.n_cases == sum(found[f"{choice.candidate}-{fold}"].n_cases for fold in (0, 1))


def test_no_site_publishes_scores_for_it(finished):
    assert not [key for key in finished.store.objects if "cross-validation" in key]
    for track in TRACKS:
        state = finished.observe(track=track).state
        invariants.check(state)
        assert not state.rejected
        assert all(not m.n_cases and not m.classes for m in state.evaluations.values())


def test_it_is_made_again_by_whoever_verifies(finished):
    tracks = {track: finished.observe(track=track) for track in TRACKS}
    found = list(verify_choice(finished.observe(), tracks))
    assert [(one.level, one.text) for one in found] == [
        (OK, "made again from the totals of all tracks: the same")
    ]
    for observer in tracks.values():
        assert {one.level for one in verify_study(observer)} == {OK}
    seen = finished.observe()
    best = seen.state.choice.candidate
    other = next(name for name in seen.state.choice.dice if name != best)
    seen.state.choice = replace(seen.state.choice, candidate=other)
    seen.refresh = lambda **_: seen.state
    assert [one.level for one in verify_choice(seen, tracks)] == [PROBLEM]


def test_status_says_what_was_chosen_and_waits_for_no_site(finished):
    state = finished.observe().state
    assert summarize(state).best == state.choice.words
    state.choice = None
    assert summarize(state).choice_waits_for == ("aggregator",)


def test_the_report_says_how_it_was_chosen(finished):
    tracks = {track: finished.observe(track=track).state for track in TRACKS}
    view = overview({name: collect(one, {}) for name, one in tracks.items()}, tracks[TRACKS[0]])
    page = render_overview(view, {}, made_at="2026-01-01T00:00:00Z")
    assert f"{view.choice.n_cases} validation cases in totals over sites." in page
    assert "Ensembles and postprocessing were not scored." in page
    assert "of 0 sites" not in page


def test_totals_of_a_track_do_not_tell_apart_sites_that_those_of_another_do_not(tmp_path):
    """One site is away on one track for a round: the other track has totals without it, too."""
    four = {**TARGETS, "west": 0.05}
    policy = {"policy": "quorum", "policy_options": {"sites": 3, "grace_minutes": 0}}
    options = {**SECURE, "targets": four, "configuration": "2d", "rounds": 2, **policy}
    federation = Federation(tmp_path, **options).start()
    first, second = federation.tracks
    others = [site for site in four if site != "west"]
    west = federation.process("west")
    while 1 not in federation.observe(track=first).state.rounds:
        for name in (*others, "aggregator", HELPER):
            federation.step(name)
        west.workers[second].step()  # it works on this track alone
    federation.run()
    sets = {
        record.scores["pseudo"].sites
        for track in (first, second)
        for record in federation.observe(track=track).state.rounds.values()
        if "pseudo" in record.scores and not record.scores["pseudo"].fault
    }
    assert sets == {tuple(others)}
    assert ("west", 0, "pseudo") in federation.observe(track=second).state.evaluations


def test_a_configuration_without_a_total_is_not_compared(finished):
    tracks = {track: finished.observe(track=track).state for track in TRACKS}
    state = finished.observe().state
    tracks["2d-1"].finished = replace(tracks["2d-1"].finished, totals={})
    choice = choose_by_totals(state, tracks)
    assert choice.dice["2d"] is None
    assert choice.candidate == "3d_fullres"
    tracks["3d_fullres-0"].finished = replace(tracks["3d_fullres-0"].finished, totals={})
    with pytest.raises(StudyError, match="No configuration has a total of each of its folds"):
        choose_by_totals(state, tracks)


def test_totals_of_different_sites_are_not_compared(finished):
    tracks = {track: finished.observe(track=track).state for track in TRACKS}
    end = tracks["2d-1"].finished
    less = replace(end.totals["full"], sites=("east", "north"))
    tracks["2d-1"].finished = replace(end, totals={"full": less})
    with pytest.raises(StudyError, match="of different sites"):
        choose_by_totals(finished.observe().state, tracks)
