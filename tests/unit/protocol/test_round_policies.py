"""When a round closes: policies as functions, and in a federation in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedfs.errors import StudyError, UserError
from fedfs.protocol import layout, round_policies
from fedfs.protocol.messages import Named
from fedfs.protocol.round_policies import RoundStatus, waits_for
from fedfs.roles.coordinator import rounds
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import PROBLEM
from fedfs.roles.reader.log import events
from fedfs.roles.reader.status import summarize
from support import invariants
from support.federation import Federation, forge

MINUTE = 60.0
STANDING = RoundStatus(
    version=4,
    opened_s=1_800_000_000.0,
    now_s=1_800_000_000.0,
    n_cases={"east": 10, "north": 20, "south": 30},
    answered=[],
    missing=["east", "north", "south"],
    n_usable=0,
)


def standing(*answered: str, late: int = 0, minutes: float = 0.0) -> RoundStatus:
    return dataclasses.replace(
        STANDING,
        now_s=STANDING.opened_s + minutes * MINUTE,
        answered=list(answered),
        missing=[site for site in STANDING.n_cases if site not in answered],
        n_usable=len(answered) + late,
    )


def quorum(**options: float) -> Named:
    return Named(name="quorum", options=options)


def test_all_waits_for_everybody_by_name():
    assert waits_for(Named(name="all"), standing("east")) == (
        "the update of north, south from version 4"
    )
    assert waits_for(Named(name="all"), standing("east", "north", "south")) == ""


@pytest.mark.parametrize(
    ("options", "who", "closes"),
    [
        ({"sites": 2}, ["east"], False),
        ({"sites": 2}, ["east", "north"], True),
        ({"sites": 9}, ["east", "north"], False),
        ({"sites": 9}, ["east", "north", "south"], True),
        ({"cases_percent": 50}, ["east"], False),
        ({"cases_percent": 50}, ["south"], True),
        ({"cases_percent": 50}, ["east", "north"], True),
        ({"cases_percent": 50.1}, ["east", "north"], False),
        ({"cases_percent": 100}, ["north", "south"], False),
    ],
)
def test_a_quorum_is_a_number_of_sites_or_a_share_of_cases(options, who, closes):
    assert (waits_for(quorum(**options), standing(*who)) == "") is closes


def test_a_round_with_a_quorum_stays_open_for_the_grace_period():
    policy = quorum(sites=2, grace_minutes=30)
    reason = waits_for(policy, standing("east", "north", minutes=29))
    assert reason.startswith("the update of south from version 4 until 2027-")
    assert waits_for(policy, standing("east", "north", minutes=30)) == ""
    assert waits_for(policy, standing("east", "north", "south", minutes=1)) == ""


def test_at_the_deadline_a_round_closes_with_what_there_is_but_not_with_nothing():
    policy = quorum(sites=3, grace_minutes=600, deadline_minutes=60)
    assert "until 2027-" in waits_for(policy, standing("east", minutes=59))
    assert waits_for(policy, standing("east", minutes=60)) == ""
    assert waits_for(policy, standing(late=1, minutes=60)) == ""
    assert "0 of 3 sites have answered" in waits_for(policy, standing(minutes=61))


def test_a_clock_that_was_set_back_only_makes_a_round_longer():
    assert waits_for(quorum(sites=1, grace_minutes=1), standing("east", minutes=-600)) != ""


def test_a_buffer_is_no_larger_than_the_number_of_sites_that_take_part():
    policy = Named(name="buffer", options={"size": 5})
    waiting = waits_for(policy, standing("east", late=1))
    assert waiting.endswith("2 of 3 updates wait, as only 3 sites take part")
    assert waits_for(policy, standing("east", late=2)) == ""


def test_a_buffer_counts_updates_of_any_version():
    policy = Named(name="buffer", options={"size": 3})
    assert "2 of 3 updates wait" in waits_for(policy, standing("east", late=1))
    assert waits_for(policy, standing("east", late=2)) == ""
    assert waits_for(policy, standing("east", "north", "south")) == ""
    huge = Named(name="buffer", options={"size": 50})
    assert waits_for(huge, standing("east", "north", "south")) == ""


def test_without_sites_or_usable_updates_it_says_so():
    nobody = dataclasses.replace(STANDING, n_cases={}, missing=[])
    assert "all are paused" in waits_for(Named(name="all"), nobody)
    refused = dataclasses.replace(standing("east", "north", "south"), answered=[], n_usable=0)
    assert "every one so far was refused" in waits_for(Named(name="all"), refused)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("most", {}, "Policy 'most' is unknown"),
        ("all", {"sites": 2}, "has no option 'sites'"),
        ("quorum", {}, "needs the option sites or cases_percent"),
        ("quorum", {"sites": 2, "cases_percent": 5}, "one of them"),
        ("quorum", {"sites": 0}, "sites of policy 'quorum' cannot be 0"),
        ("quorum", {"sites": 1.5}, "cannot be 1.5"),
        ("quorum", {"cases_percent": 101}, "cannot be 101"),
        ("quorum", {"sites": 2, "grace_minutes": -1}, "grace_minutes"),
        ("quorum", {"sites": 2, "deadline_minutes": 0}, "deadline_minutes"),
        ("quorum", {"sites": 2, "deadline_minutes": float("nan")}, "cannot be nan"),
        ("buffer", {}, "needs the option size"),
        ("buffer", {"size": 2, "staleness_exponent": -1}, "staleness_exponent"),
    ],
)
def test_options_are_checked_when_a_study_begins_and_when_it_is_run(name, options, complaint):
    with pytest.raises(UserError, match=complaint):
        round_policies.check(name, options)
    with pytest.raises(UserError, match=complaint):
        StudyOptions(
            name="x",
            dataset_json={"channel_names": {}, "labels": {}, "file_ending": ""},
            policy=name,
            policy_options=options,
        )
    with pytest.raises(StudyError, match=complaint):
        waits_for(Named(name=name, options=options), STANDING)


QUORUM = {"policy": "quorum", "policy_options": {"sites": 2, "grace_minutes": 10}}


def run_all(federation: Federation, *names: str) -> None:
    for name in names:
        federation.run_process(name)


def begin(tmp_path, **options) -> Federation:
    federation = Federation(tmp_path, **options).start()
    names = [*federation.targets, "aggregator"]
    run_all(federation, *names)
    return federation


def test_a_slow_site_is_left_out_named_and_its_update_goes_into_the_next_version(tmp_path):
    federation = begin(tmp_path, **QUORUM)
    run_all(federation, "east", "north")
    assert "until" in federation.run_process("aggregator").text
    federation.now_s += 10 * MINUTE
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[1]
    assert [update.site for update in record.updates] == ["east", "north"]
    (left,) = record.left_out
    opened_at = federation.observe().state.rounds[0].created_at
    assert (left.site, left.since_version, left.since) == ("south", 1, opened_at)
    assert left.reason == "no update from version 0 in time"

    for name in ("east", "north"):
        run_all(federation, name)
    federation.now_s += 10 * MINUTE
    run_all(federation, "aggregator")
    (left,) = federation.observe().state.rounds[2].left_out
    assert (left.site, left.since_version, left.since) == ("south", 1, opened_at)
    summary = summarize(federation.observe().state)
    assert {site.site: site.left_out for site in summary.sites} == {
        "east": "",
        "north": "",
        "south": f"left out since version 1 ({opened_at}): no update from version 1 in time",
    }


def test_a_late_update_is_weighted_by_its_lag_and_taken_from_its_own_base(tmp_path):
    options = {**QUORUM, "policy_options": {"sites": 2, "staleness_exponent": 2.0}}
    federation = begin(tmp_path, rounds=2, **options)
    slow = federation.process("south")
    while ("south", 0, "pseudo") not in federation.observe().state.evaluations:
        slow.step()
    run_all(federation, "east", "north", "aggregator")  # closes version 1
    before = {version: federation.weights(version) for version in (0, 1)}
    # The slow site had begun with version 0: it looks at the store as it was then.
    state = slow._observer.state
    slow._train(0, state)
    run_all(federation, "east", "north", "aggregator")

    record = federation.observe().state.rounds[2]
    found = [(u.site, u.base_version, u.weight) for u in record.updates]
    raw = {"east": 10.0, "north": 20.0, "south": 30.0 * 2.0**-2.0}
    total = sum(raw.values())
    assert [(site, base) for site, base, _ in found] == [("east", 1), ("north", 1), ("south", 0)]
    np.testing.assert_allclose([w for *_, w in found], [w / total for w in raw.values()])
    assert record.left_out == ()
    after = federation.weights(2)
    for name, value in before[1].items():
        expected = value.astype(np.float64)
        for site, base, weight in found:
            start = before[base][name]
            trained = start + (federation.learners[site].target - start) / 2
            expected = expected + weight * (trained.astype(np.float64) - start)
        np.testing.assert_allclose(after[name], expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("encoding", "strategy"),
    [
        ("fp32", "FedAvg"),
        ("fp16", "FedAvg"),
        ("int8", "FedAvg"),
        ("topk", "FedAvg"),
        ("randk", "FedAvg"),
        ("fp32", "FedMedian"),
        ("int8", "Krum"),
        ("fp32", "FedAdam"),
    ],
)
def test_a_late_update_counts_beside_fresh_ones_of_others(tmp_path, encoding, strategy):
    options = {"policy": "buffer", "policy_options": {"size": 2}}
    extra = {"num_malicious_nodes": 0.0} if strategy == "Krum" else {}
    federation = begin(
        tmp_path, rounds=2, encoding=encoding, strategy=strategy, strategy_options=extra, **options
    )
    slow = federation.process("south")
    while ("south", 0, "pseudo") not in federation.observe().state.evaluations:
        slow.step()
    run_all(federation, "east", "north", "aggregator")
    slow._train(0, slow._observer.state)
    run_all(federation, "east", "aggregator")
    record = federation.observe().state.rounds[2]
    assert [(u.site, u.base_version) for u in record.updates] == [("east", 1), ("south", 0)]
    assert sum(update.weight for update in record.updates) == pytest.approx(1.0)
    assert [item.site for item in record.left_out] == ["north"]
    assert all(np.isfinite(value).all() for value in federation.weights(2).values())


def twice_in_a_round(federation: Federation, site: str) -> None:
    """Let a site publish what it trained from version 0 only once it can train from version 1."""
    slow = federation.process(site)
    while (site, 0, "pseudo") not in federation.observe().state.evaluations:
        slow.step()
    run_all(federation, *(name for name in federation.targets if name != site), "aggregator")
    slow._train(0, slow._observer.state)
    run_all(federation, *federation.targets)


@pytest.mark.parametrize(
    "options", [{"strategy": "FedMedian"}, {"max_move_ratio": 5.0}], ids=["median", "ratio"]
)
def test_a_site_has_one_vote_in_a_round_however_many_updates_it_has(tmp_path, options):
    """Two updates of one site would outvote two of others, and move the middle of their moves."""
    quorum = {"policy": "quorum", "policy_options": {"sites": 2}}
    federation = begin(tmp_path, rounds=2, **quorum, **options)
    federation.targets["south"] = 1e6
    federation.learners["south"].target = np.float32(1e6)
    twice_in_a_round(federation, "south")
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[2]
    used = [(update.site, update.base_version) for update in record.updates]
    assert len({site for site, _ in used}) == len(used)
    assert max(float(np.abs(value).max()) for value in federation.weights(2).values()) < 10


def test_the_newest_update_of_a_site_goes_in_and_the_older_one_is_excluded(tmp_path):
    federation = begin(tmp_path, rounds=2, policy="quorum", policy_options={"sites": 2})
    twice_in_a_round(federation, "south")
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[2]
    used = [(update.site, update.base_version) for update in record.updates]
    assert used == [("east", 1), ("north", 1), ("south", 1)]
    reason = "the update is older than the one of its site in use"
    assert [(item.key, item.reason) for item in record.excluded] == [
        (layout.update("south", 0), reason)
    ]


def test_an_older_update_goes_in_where_the_newest_of_its_site_is_refused(tmp_path):
    federation = begin(tmp_path, rounds=2, policy="quorum", policy_options={"sites": 2})
    twice_in_a_round(federation, "south")
    key = federation.observe().state.updates["south", 1].payload.key
    stored = federation.place.objects[key]
    federation.place.objects[key] = dataclasses.replace(stored, data=stored.data[:-1] + b"!")
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[2]
    used = [(update.site, update.base_version) for update in record.updates]
    assert used == [("east", 1), ("north", 1), ("south", 0)]
    assert [item.key for item in record.excluded] == [layout.update("south", 1)]


def test_of_many_updates_of_one_site_the_last_one_counts(tmp_path):
    federation = begin(tmp_path, rounds=9, policy="buffer", policy_options={"size": 3})
    for _ in range(3):  # the aggregator is away, and a rogue site answers old versions too
        run_all(federation, "east", "north", "south", "aggregator")
    state = federation.observe().state
    assert state.newest >= 3
    federation.run_process("east")
    aggregator = federation.process("aggregator")
    observed = aggregator._observer.refresh()
    update = observed.updates["east", state.newest]
    for base in range(3):
        old = dataclasses.replace(update, base_version=base, key=layout.update("east", base))
        observed.waiting[old.key] = old
    federation.run_process("north")
    federation.run_process("south")
    federation.run_process("aggregator")
    record = federation.observe().state.rounds[state.newest + 1]
    assert [u.base_version for u in record.updates if u.site == "east"] == [state.newest]


def test_a_payload_that_is_not_there_does_not_hold_up_a_quorum(tmp_path):
    federation = begin(tmp_path, policy="quorum", policy_options={"sites": 2})
    run_all(federation, "east", "north", "south")
    update = federation.observe().state.updates["south", 0]
    payload = federation.place.objects.pop(update.payload.key)
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[1]
    assert [u.site for u in record.updates] == ["east", "north"]
    assert record.excluded == ()
    federation.place.objects[update.payload.key] = payload
    run_all(federation, "east", "north", "aggregator")
    state = federation.observe().state
    used = [(u.site, u.base_version) for u in state.rounds[2].updates]
    assert used == [("east", 1), ("north", 1), ("south", 0)]


def test_a_refused_update_is_heard_of_at_its_site(tmp_path, caplog):
    federation = begin(tmp_path, policy="quorum", policy_options={"sites": 2})
    run_all(federation, "east", "north", "south")
    key = federation.observe().state.updates["south", 0].payload.key
    stored = federation.place.objects[key]
    federation.place.objects[key] = dataclasses.replace(stored, data=stored.data[:-1] + b"!")
    run_all(federation, "aggregator")
    record = federation.observe().state.rounds[1]
    assert [(item.site, item.key) for item in record.excluded] == [
        ("south", layout.update("south", 0))
    ]
    assert record.left_out[0].reason.startswith("its update was refused: the payload is damaged")
    with caplog.at_level("WARNING"):
        outcome = federation.run_process("south")
    assert "the aggregator refused sites/south/updates/00000/manifest.json" in caplog.text
    assert "the aggregator refused" in outcome.text
    status = federation.observe().state.statuses["south"]
    assert "the aggregator refused" in status.waiting_for


def refused_by_all(federation: Federation) -> None:
    """Let all sites answer with payloads that cannot be used."""
    run_all(federation, *federation.targets)
    for (_, version), update in federation.observe().state.updates.items():
        stored = federation.place.objects[update.payload.key]
        if version == federation.observe().state.newest:
            forge(federation.place, update.payload.key, stored.data[:-1] + b"!")
    run_all(federation, "aggregator")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "FedAdam"},
        {"strategy": "Krum", "strategy_options": {"num_malicious_nodes": 0.0, "clip_norm": 1.0}},
        {"encoding": "int8", "model_encoding": "topk", "keyframe_every": 2},
    ],
    ids=["FedAvg", "memory", "Krum", "deltas"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_a_round_in_which_all_was_refused_is_closed_and_the_sites_train_again(
    tmp_path, options, first
):
    federation = begin(tmp_path, rounds=3, **options)
    for _ in range(first):
        run_all(federation, *federation.targets, "aggregator")
    refused_by_all(federation)
    outcome = federation.run_process("aggregator")
    assert "fedfs close-round lets them train again" in outcome.text
    coordinator = Coordinator(
        federation.store, federation.home("coordinator"), clock=federation.clock
    )
    charter = rounds.close_round(coordinator)
    assert list(charter.closed_rounds.values()) == [first]
    federation.run_process("aggregator")
    state = federation.observe().state
    assert state.newest == first + 1
    assert state.rounds[first + 1].updates == ()
    assert len(state.rounds[first + 1].excluded) == len(federation.targets)
    if first == 0 or "model_encoding" not in options:
        before, after = federation.weights(first), federation.weights(first + 1)
        assert all(np.array_equal(before[name], after[name]) for name in before)
    federation.run()
    state = federation.observe().state
    assert len(state.rounds[first + 2].updates) >= 1
    assert state.finished is not None
    invariants.check(state)
    found = list(verify_study(federation.observe()))
    assert not [f for f in found if f.level == PROBLEM and "bytes" not in f.text]
    assert sum("bit by bit the same" in f.text for f in found) >= 2
    said = "\n".join(event.what for event in events(state))
    assert f"the round of version {first} closes with what can be used" in said
    assert f"made version {first + 1} of no update" in said


@pytest.mark.parametrize("more_come", [True, False], ids=["more come", "closed by hand"])
def test_krum_waits_until_it_has_the_updates_that_it_needs(tmp_path, more_come):
    federation = begin(
        tmp_path, policy="quorum", policy_options={"sites": 2}, rounds=1, strategy="Krum",
        strategy_options={"num_malicious_nodes": 1.0}, targets=dict.fromkeys("abcde", 1.0),
    )  # fmt: skip
    run_all(federation, "a", "b")
    outcome = federation.run_process("aggregator")
    assert "the update of c, d, e from version 0: Krum needs 5 usable updates" in outcome.text
    if more_come:
        federation.run()
    else:
        home = federation.home("coordinator")
        rounds.close_round(Coordinator(federation.store, home, clock=federation.clock))
        federation.run_process("aggregator")
    state = federation.observe().state
    assert len(state.rounds[1].updates) == (5 if more_come else 0)
    assert not [f for f in verify_study(federation.observe()) if f.level == PROBLEM]


def test_only_a_round_that_was_answered_can_be_closed_by_the_coordinator(tmp_path):
    federation = begin(tmp_path, rounds=1)
    home = federation.home("coordinator")
    coordinator = Coordinator(federation.store, home, clock=federation.clock)
    with pytest.raises(StudyError, match="version 0 has no update"):
        rounds.close_round(coordinator)
    with pytest.raises(UserError, match="Name the track"):
        rounds.close_round(coordinator, "2d-7")
    federation.run()
    coordinator = Coordinator(federation.store, home, clock=federation.clock)
    with pytest.raises(StudyError, match="No round of track"):
        rounds.close_round(coordinator)


def expecting(status: RoundStatus, **minutes: float) -> RoundStatus:
    until_s = {site: status.opened_s + MINUTE * m for site, m in minutes.items()}
    return dataclasses.replace(status, expected_until_s=until_s)


def test_adaptive_grace_waits_for_those_who_are_still_expected():
    policy = quorum(sites=1, adaptive_grace=1.25)
    early = expecting(standing("east"), north=-10, south=30)
    assert waits_for(policy, early).startswith("the update of south from version 4 until ")
    assert round_policies.changes_at(policy, early) == early.opened_s + 30 * MINUTE
    late = expecting(standing("east", minutes=30), north=-10, south=30)
    assert waits_for(policy, late) == ""
    unknown = expecting(standing("east", minutes=30), north=-10, south=float("inf"))
    assert (
        waits_for(policy, unknown)
        == "the update of south from version 4: 1 of 1 sites have answered"
    )


def test_adaptive_grace_ends_at_the_deadline_and_needs_the_quorum():
    policy = quorum(sites=2, adaptive_grace=1.25, deadline_minutes=60)
    gone = {"north": -1.0, "south": -1.0}
    assert waits_for(policy, expecting(standing("east", minutes=59), **gone)) != ""
    assert waits_for(policy, expecting(standing("east", minutes=60), **gone)) == ""


def test_a_buffer_is_no_larger_than_the_number_of_living_sites_and_has_a_deadline():
    policy = Named(name="buffer", options={"size": 3, "deadline_minutes": 60})
    assert waits_for(policy, standing("east", "north")) != ""
    assert waits_for(policy, expecting(standing("east", "north"), south=5)) != ""
    assert waits_for(policy, expecting(standing("east", "north", minutes=5), south=5)) == ""
    assert waits_for(policy, standing("east", minutes=59)).endswith("at the latest")
    assert waits_for(policy, standing("east", minutes=60)) == ""
    assert waits_for(policy, standing(minutes=60)) != ""


def test_a_record_says_when_updates_arrived_and_who_is_missing_is_logged(tmp_path):
    federation = begin(tmp_path, **QUORUM)
    run_all(federation, "east", "north", "aggregator")
    federation.now_s += 10 * MINUTE
    outcome = federation.step("aggregator")
    assert outcome.text.endswith("; without south (50 %) of all cases")
    used = federation.observe().state.rounds[1].updates
    assert all(0 < update.arrived_s < 10 * MINUTE for update in used)
