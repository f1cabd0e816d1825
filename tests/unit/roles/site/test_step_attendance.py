"""Sites that come late, pause, leave and return; one process per role and host."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.errors import StudyError
from fedfs.protocol.messages import Attendance
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.reader.status import summarize
from support.federation import Federation

FOUR = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 4.0}


def everybody(federation: Federation, *names: str) -> None:
    for name in (*names, "aggregator"):
        federation.run_process(name)


def states(federation: Federation) -> dict[str, str]:
    return {site.site: site.state for site in summarize(federation.observe().state).sites}


@pytest.mark.parametrize("mode", ["ffe", "asym"])
def test_a_site_that_comes_after_the_plan_is_admitted_and_trains(tmp_path, mode):
    networks = {site: {"a": (2, 3), "b": (4,)} for site in FOUR}
    networks["west"] = {"a": (2, 3), "b": (5,), "c": (1,)}
    federation = Federation(
        tmp_path,
        targets=FOUR,
        min_sites=3,
        mode=mode,
        networks=networks,
        **({"alignment": "name", "min_coverage": 0.4} if mode == "asym" else {}),
    )
    first = ("east", "north", "south")
    federation.join(*first)
    federation.approve()
    everybody(federation, *first)
    everybody(federation, *first)
    federation.join("west")
    federation.approve("west")
    assert "the aggregator to admit this site" in federation.run_process("west").text
    federation.run_process("aggregator")
    federation.run()
    state = federation.observe().state
    assert set(state.plan.sites) == set(first)
    assert [u.site for u in state.rounds[3].updates] == sorted(FOUR)
    admission = state.admissions["west"]
    if mode == "asym":
        assert admission.tensors == ("a@2x3",)
        assert 0.4 <= admission.coverage < 1
        took_part = {n: g.sites for g in state.rounds[3].participation for n in g.tensors}
        assert took_part == {"a@2x3": tuple(sorted(FOUR)), "b@4": first}
    assert np.isfinite(next(iter(federation.weights(3).values()))).all()


def test_a_late_site_that_shares_too_little_is_left_out_and_named(tmp_path):
    networks = {site: {"a": (2, 3), "b": (4,)} for site in FOUR}
    networks["west"] = {"z": (9, 9)}
    federation = Federation(
        tmp_path, targets=FOUR, min_sites=3, mode="asym", networks=networks, alignment="name"
    )
    first = ("east", "north", "south")
    federation.join(*first)
    federation.approve()
    everybody(federation, *first)
    federation.join("west")
    federation.approve("west")
    federation.run_process("west")
    for _ in range(4):
        everybody(federation, *first)
    state = federation.observe().state
    assert state.finished is not None
    assert "west" not in state.admissions


def test_a_site_that_pauses_is_not_waited_for_and_comes_back(tmp_path):
    federation = Federation(tmp_path, rounds=4).start()
    everybody(federation, *federation.targets)
    federation.attendances["south"] = Attendance.wanted("south", "paused", "new GPU")
    everybody(federation, "south", "east", "north")
    record = federation.observe().state.rounds[1]
    assert [u.site for u in record.updates] == ["east", "north"]
    assert [(item.site, item.reason) for item in record.left_out] == [("south", "paused: new GPU")]
    assert states(federation)["south"] == "paused"
    assert "fedfs site resume" in federation.run_process("south").text
    del federation.attendances["south"]
    federation.run()
    assert [u.site for u in federation.observe().state.rounds[4].updates] == sorted(
        federation.targets
    )


def test_a_site_that_leaves_is_finished_and_the_others_go_on(tmp_path):
    federation = Federation(tmp_path).start()
    everybody(federation, *federation.targets)
    federation.attendances["south"] = Attendance.wanted("south", "left", "")
    assert federation.run_process("south").finished
    for _ in range(4):
        everybody(federation, "east", "north")
    assert federation.observe().state.finished is not None
    assert states(federation)["south"] == "left"


def test_the_coordinator_pauses_resumes_and_removes_sites(tmp_path):
    federation = Federation(tmp_path, rounds=5).start()
    everybody(federation, *federation.targets)

    def amend(state: str, *sites: str) -> None:
        home = federation.home("coordinator")
        set_state(Coordinator(federation.store, home, clock=federation.clock), sites, state)

    amend("paused", "south")
    assert "it is paused" in federation.run_process("south").text
    everybody(federation, "east", "north")
    assert federation.observe().state.newest == 1
    amend("active", "south")
    everybody(federation, "east", "north")
    assert federation.observe().state.newest == 1
    everybody(federation, "south")
    assert federation.observe().state.newest == 2
    amend("removed", "south")
    with pytest.raises(StudyError, match="'south' is removed"):
        federation.run_process("south")
    everybody(federation, "east", "north")
    assert federation.observe().state.newest == 3
    with pytest.raises(StudyError, match="Not on the roster: nobody"):
        amend("paused", "nobody")


def test_polls_cost_the_same_however_many_versions_there_are(tmp_path):
    federation = Federation(tmp_path, rounds=40).start()
    listed: list[int] = []
    original = federation.store.list

    def counting(prefix, *, after=""):
        entries = list(original(prefix, after=after))
        listed.append(len(entries))
        return iter(entries)

    costs = {}
    while federation.observe().state.newest < 39:
        everybody(federation, "east", "north", "south")
        version = federation.observe().state.newest
        if version in (5, 35):
            federation.store.list = counting
            for name in (*federation.targets, "aggregator"):
                listed.clear()
                federation.step(name)
                costs[name, version] = (len(listed), sum(listed))
            federation.store.list = original
    for name in (*federation.targets, "aggregator"):
        assert costs[name, 35] == costs[name, 5], costs


def test_a_site_that_is_approved_after_the_last_version_has_nothing_to_do(tmp_path):
    federation = Federation(tmp_path, min_sites=2, rounds=1)
    federation.join("east", "south")
    federation.approve()
    for _ in range(20):
        everybody(federation, "east", "south", "aggregator")
    federation.join("north")
    federation.approve("north")
    outcome = federation.step("north")
    assert outcome.finished
    assert outcome.text == "nothing to do: this site came after the last version"
    assert "north" not in federation.observe().state.fingerprints
