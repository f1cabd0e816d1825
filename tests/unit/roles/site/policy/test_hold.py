"""A charter that comes to clash with a site's policy pauses the site, until it is amended again."""

from __future__ import annotations

import pytest

from fedfs.errors import PolicyError
from fedfs.protocol.messages import Attendance
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.reader.log import events
from fedfs.roles.reader.status import summarize
from fedfs.roles.site.join import join_study
from fedfs.roles.site.policy.rules import SitePolicy
from support.federation import Federation, reach


def amend(federation: Federation, **changes) -> None:
    Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock).amend(
        **changes
    )


def site_of(federation: Federation, name: str):
    return next(s for s in summarize(federation.observe().state).sites if s.site == name)


def test_an_amendment_that_clashes_pauses_the_site_and_the_others_go_on(tmp_path, caplog):
    policies = {"north": SitePolicy(max_rounds=4)}
    federation = Federation(tmp_path, policies=policies).start()
    reach(federation, 1)
    schedule = federation.observe().state.charter.schedule
    amend(federation, schedule=schedule.__class__(**{**vars(schedule), "rounds": 5}))
    outcome = federation.run_process("north")
    assert "the charter and this site's policy to agree (max_rounds)" in outcome.text
    north = site_of(federation, "north")
    assert north.state == "paused"
    assert "suppressed by the site's policy" in north.activity
    assert "max_rounds: the charter has 5 rounds" in caplog.text
    federation.run_process("aggregator")
    for _ in range(2):
        for name in ("east", "south", "aggregator"):
            federation.run_process(name)
    assert federation.observe().state.newest >= 2
    assert ("north", 1) not in federation.observe().state.updates
    told = [event.what for event in events(federation.observe().state) if event.who == "north"]
    assert any("paused: suppressed by the site's policy (max_rounds)" in what for what in told)

    amend(federation, schedule=schedule)
    federation.run()
    state = federation.observe().state
    assert site_of(federation, "north").state == "active"
    assert state.is_validated("north", 3)


def test_a_site_that_its_operator_has_paused_does_not_come_back_for_its_policy(tmp_path):
    federation = Federation(tmp_path).start()
    federation.policies["north"] = SitePolicy(max_rounds=2)
    federation.attendances["north"] = Attendance.wanted("north", "paused", "holiday")
    federation.run_process("north")
    assert federation.observe().state.attendances["north"].reason == "holiday"


def test_a_site_that_has_grown_too_small_for_its_policy_pauses_before_it_trains(tmp_path):
    """``east`` has 10 cases; its policy was changed after it had joined."""
    federation = Federation(tmp_path).start()
    federation.policies["east"] = SitePolicy(minimum_cases=11)
    federation.run_process("east")
    assert ("fingerprint", -1) not in federation.learners["east"].calls
    assert site_of(federation, "east").state == "paused"


def test_what_the_gate_refuses_pauses_the_site_instead_of_ending_it(tmp_path, monkeypatch):
    federation = Federation(tmp_path, policies={"east": SitePolicy()}).start()
    monkeypatch.setattr("fedfs.roles.site.announcement.coarsen", lambda measured, **_: measured)
    outcome = federation.run_process("east")
    assert "the charter and this site's policy to agree (publication)" in outcome.text
    state = federation.observe().state
    assert "east" not in state.fingerprints
    assert state.is_away("east")
    assert federation.learners["east"].calls.count(("fingerprint", -1)) == 1


def test_a_site_whose_policy_forbids_the_study_does_not_join(tmp_path):
    federation = Federation(tmp_path, policies={"north": SitePolicy(encryption="required")})
    publisher = federation.publisher("site-north", "north")
    with pytest.raises(PolicyError, match="encryption: the charter encrypts nothing"):
        join_study(
            federation.observe("north"), publisher, "north", federation.learners["north"],
            difference=[],
        )  # fmt: skip
    assert not any(key.startswith("sites/") for key in federation.store.objects)
