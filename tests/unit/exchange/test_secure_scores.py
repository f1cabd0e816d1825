"""A study with secure scores: nobody sees scores of a site, and totals are those of all of them."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest

from fedfs.protocol import layout
from fedfs.protocol.messages import SUPPRESSED
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.helper import approve_helper
from fedfs.roles.coordinator.rounds import close_round
from fedfs.roles.reader import privacy
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.evaluations import AT_SITE, IN_TOTALS, mean_dice
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM
from fedfs.roles.reader.log import events
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.roles.reader.training_log import validation_summary
from support.federation import HELPER, LENIENT, Federation, forge
from support.forgery import resign
from support.slow import slow

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
FOUR = {**TARGETS, "west": 0.05}
SECURE = {
    "secure_sums": True, "secure_scores": True, "encryption": "age", "targets": TARGETS,
    "rounds": 1,
}  # fmt: skip


def coordinator_of(federation: Federation) -> Coordinator:
    return Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)


def up_to_last(federation: Federation, *but: str) -> None:
    """Come so far that the last version is there, and all sites but some have scored it."""
    for name in (*federation.targets, "aggregator", *federation.targets, "aggregator", HELPER):
        federation.run_process(name)
    federation.run_process("aggregator")
    for site in federation.targets:
        if site not in but:
            federation.run_process(site)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Is changed by no test."""
    folder = tmp_path_factory.mktemp("scores")
    federation = Federation(folder, **SECURE, ema=0.5, alone=("north",)).start()
    federation.run()
    return federation


@pytest.fixture(scope="module")
def state(finished):
    return finished.observe().state


def test_totals_are_the_means_of_a_study_that_shows_scores(state, tmp_path):
    options = {**SECURE, "secure_scores": False, "ema": 0.5}
    shown = Federation(tmp_path, **options).start()
    shown.run()
    other = shown.observe().state
    for version, variant in ((0, "pseudo"), (1, "pseudo"), (1, "full"), (1, "ema")):
        found, expected = (mean_dice(one, version, variant) for one in (state, other))
        assert found == pytest.approx(expected, abs=2**-14)
    total = state.finished.totals["full"]
    by_case = [s.metrics_by_class["organ"]["dice"] for (_, v, of), s in other.evaluations.items()
               if (v, of) == (1, "full")]  # fmt: skip
    assert (total.sites, total.n_cases) == (tuple(TARGETS), sum(one.n for one in by_case))
    expected = sum(one.n * one.mean for one in by_case)
    assert total.classes["organ"].total == pytest.approx(expected, abs=2**-12)
    assert not state.rejected
    assert state.statuses[HELPER_SITE].step == "finished"


def test_nobody_sees_scores_of_a_site(finished, state):
    assert state.evaluations
    for (site, _, variant), message in state.evaluations.items():
        assert message.is_masked == (variant != "local"), site
        assert (message.n_cases, message.mean_dice, message.classes) == (0, None, {})
        assert message.loss is None
        assert not any((message.metrics, message.metrics_by_class, message.cases, message.against))
        assert message.suppressed == (variant == "local")
        if message.is_masked:  # the aggregator decrypts noise; others not even that
            values = np.frombuffer(base64.b64decode(message.masked), "<u4")
            assert values.max() > 2**20
    assert not any(update.metrics for update in state.updates.values())
    for host in (HELPER, "north"):
        seen = finished.observe(host).state
        assert all(not message.masked for message in seen.evaluations.values())


def test_whoever_holds_the_aggregators_key_makes_totals_again(finished):
    for host, level, says in (
        ("coordinator", OK, "of scores that nobody saw: 2 made again"),
        (HELPER, NOTE, "this host cannot decrypt the scores"),
    ):
        found = [one for one in verify_study(finished.observe(host)) if one.subject == "totals"]
        assert [(one.level, says in one.text) for one in found] == [(level, True)]
    record = finished.observe().state.finished
    total = dataclasses.replace(record.totals["full"], n_cases=record.totals["full"].n_cases - 1)
    before = finished.place.objects[layout.FINISHED]
    totals = {**record.totals, "full": dataclasses.replace(total, mean=total.classes["organ"])}
    try:
        forge(
            finished.place,
            layout.FINISHED,
            resign(finished, layout.FINISHED, "coordinator", "aggregator", totals=totals),
        )
        found = [one.text for one in verify_study(finished.observe()) if one.level == PROBLEM]
    finally:
        finished.place.objects[layout.FINISHED] = before
    assert any("has other totals than the scores of the sites give" in text for text in found) or (
        any("is not accepted" in text for text in found)
    )


def test_readers_show_totals_and_say_that_there_is_nothing_else(finished, state):
    view = summarize(state)
    assert view.validated_dice == pytest.approx(state.finished.totals["full"].mean.mean)
    assert set(view.mean_dice) == {"0", "1"}
    assert all(row.mean_dice is None and not row.suppressed for row in view.sites)
    told = [event.what for event in events(state)]
    assert f"evaluated version 0: {IN_TOTALS}" in told
    assert any(text.endswith(AT_SITE) for text in told)
    assert any(text == "asked for totals of the scores of version 1" for text in told)
    summary = validation_summary(state, 1, {"organ": "1"})
    assert summary["n_cases"] == state.finished.totals["full"].n_cases
    items = {item.what: item for item in privacy.disclosures(state, "north", {})}
    assert "sums over several sites" in items["masked scores"].tells
    assert "scores" not in items
    report = collect(state, {})
    page = render(report, made_at="2026-01-01T00:00:00Z")
    assert "Nobody has seen the scores of a single site either" in page
    assert [row.model for row in report.sums.totals][:2] == ["pseudo Dice", "federated model"]
    assert report.sums.made == 1
    assert report.mean_dice[1] == pytest.approx(view.mean_dice["1"], abs=1e-4)


def test_the_study_ends_with_all_scores_or_as_the_coordinator_says(tmp_path):
    federation = Federation(tmp_path, **{**SECURE, "targets": FOUR}).start()
    up_to_last(federation, "north")
    assert "the scores of version 1 of north" in federation.run_process("aggregator").text
    assert summarize(federation.observe().state).waiting_for == ("north",)
    close_round(coordinator_of(federation))
    assert "the helper's sum of the masks" in federation.run_process("aggregator").text
    assert summarize(federation.observe().state).waiting_for == ("helper",)
    request = federation.observe().state.sum_requests[2]
    assert sorted(request.scores["full"]) == ["east", "south", "west"]
    close_round(coordinator_of(federation))  # nor does the helper come
    federation.run_process("aggregator")
    assert federation.observe().state.finished.totals == {}
    assert {one.level for one in verify_study(federation.observe())} == {OK}


def test_scores_of_one_site_less_are_in_no_total(tmp_path):
    """The difference of two sets would be about the score of the site that is missing."""
    options = {**SECURE, "targets": FOUR, "rounds": 2}
    policy = {"policy": "quorum", "policy_options": {"sites": 3, "grace_minutes": 0}}
    federation = Federation(tmp_path, **options, **policy).start()
    for name in (*FOUR, "aggregator", *FOUR, "aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    for name in (*TARGETS, "aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    records = federation.observe().state.rounds
    assert records[1].scores["pseudo"].sites == tuple(FOUR)
    assert records[2].scores == {}
    for name in (*FOUR, "aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    end = federation.observe().state.finished
    assert end.totals["full"].sites == tuple(FOUR)
    assert end.totals["pseudo"].sites == tuple(FOUR)


def test_a_sites_policy_says_whether_its_scores_are_in_totals(tmp_path):
    policies = {
        "south": dataclasses.replace(LENIENT, scores="totals"),
        "west": dataclasses.replace(LENIENT, scores="none"),
        "zurich": dataclasses.replace(LENIENT, minimum_scored_cases=1000),
    }
    targets = {**FOUR, "zurich": 0.0}
    federation = Federation(tmp_path, **{**SECURE, "targets": targets}, policies=policies).start()
    up_to_last(federation)
    for name in ("aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    state = federation.observe().state
    assert state.finished.totals["full"].sites == tuple(TARGETS)
    assert state.rounds[1].scores["pseudo"].sites == tuple(TARGETS)
    hidden = {site for (site, _, _), one in state.evaluations.items() if one.suppressed}
    assert hidden == {"west", "zurich"}
    told = {event.who for event in events(state) if event.what.endswith(SUPPRESSED)}
    assert told == hidden


@slow
def test_scores_for_a_helper_who_has_gone_are_in_no_total(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    federation.join_helper("another host")
    approve_helper(coordinator_of(federation), another=True)
    federation.kill("aggregator")
    for _ in range(4):
        for name in ("aggregator", *TARGETS):
            federation.run_process(name)
        helper = federation.make_helper(host="another host")
        while helper.step().worked:
            pass
    state = federation.observe().state
    assert state.rounds[1].scores == {}
    assert state.finished.totals["full"].sites == tuple(TARGETS)


def test_sites_wait_for_a_helper_before_they_score(tmp_path):
    federation = Federation(tmp_path, **SECURE)
    federation.join()
    federation.approve()
    for name in (*TARGETS, "aggregator", *TARGETS):
        outcome = federation.run_process(name)
    assert "approve a helper" in outcome.text
    assert not federation.observe().state.evaluations
