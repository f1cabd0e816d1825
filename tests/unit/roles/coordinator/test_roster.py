"""Sites are removed and come back, keys are replaced: earlier rounds stay believed, thieves not."""

from __future__ import annotations

import dataclasses

import pytest

from fedfs.errors import StudyError
from fedfs.exchange.publish import Publisher
from fedfs.protocol import layout
from fedfs.protocol.messages import Admission, UpdateManifest
from fedfs.roles.aggregator import planning
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.keys import replace_aggregator_key, replace_coordinator_key
from fedfs.roles.coordinator.roster import approve_sites, set_state
from fedfs.roles.site.join import ask_for_new_key
from fedfs.trust import key_validity
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import SigningKey
from support import invariants
from support.federation import Federation, reach, with_keys_of_charter
from support.forgery import NoGate

TRACK = "3d_fullres-0"


def office(federation: Federation) -> Coordinator:
    return Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)


def approve(federation: Federation, site: str, *, replace_keys: bool = False):
    return approve_sites(office(federation), [site], replace_keys=replace_keys)


def rotate(federation: Federation, site: str, *, is_lost: bool = False):
    return ask_for_new_key(
        federation.store, federation.keyring(site), site, is_lost=is_lost, clock=federation.clock
    )


def end(federation: Federation) -> None:
    federation.run()
    state = federation.observe().state
    assert not state.rejected
    invariants.check(state)
    assert state.finished is not None


def test_of_a_removed_site_earlier_rounds_stay_and_later_messages_go(federation):
    reach(federation, 2)
    set_state(office(federation), ["north"], "removed")
    for site in ("east", "south"):
        federation.run_process(site)
    federation.run_process("aggregator")
    fresh = federation.observe().state
    assert {update.site for update in fresh.rounds[1].updates} == set(federation.targets)
    assert fresh.updates.keys() >= {("north", 0), ("north", 1)}
    assert fresh.fingerprints.keys() == set(federation.targets)
    assert {update.site for update in fresh.rounds[3].updates} == {"east", "south"}
    with pytest.raises(StudyError, match="removed"):
        federation.step("north")
    publisher = federation.publisher("site-north", "north")
    before = fresh.updates["north", 1]
    fields = {**vars(before), "key": layout.update("north", 2), "base_version": 2}
    publisher.publish_stamped(UpdateManifest(**fields))
    state = federation.observe().state
    assert "which is removed" in state.rejected[layout.update("north", 2)]
    assert ("north", 2) not in state.updates


def test_a_removed_site_may_come_back_with_another_key(federation):
    reach(federation, 1)
    set_state(office(federation), ["north"], "removed")
    rotate(federation, "north", is_lost=True)
    with pytest.raises(StudyError, match="as removed; it asks with"):
        approve(federation, "north")
    approve(federation, "north", replace_keys=True)
    with_keys_of_charter(federation)
    end(federation)
    state = federation.observe().state
    assert {u.site for u in state.rounds[3].updates} == set(federation.targets)
    first, second = key_validity.of_site(state.charters, "north")
    assert first.last == 0
    assert second.first == 1
    assert first.public_key != second.public_key


def test_a_site_replaces_its_key_in_the_middle(federation):
    reach(federation, 1)
    federation.run_process("north")
    request = rotate(federation, "north")
    assert request.endorsement
    federation.run_process("east")  # the key before counts until the coordinator has seen it
    key_before = federation.observe().state.charter.entry("north").public_key
    (entry,) = approve(federation, "north")
    assert entry.from_versions == {TRACK: 2}
    with_keys_of_charter(federation)
    end(federation)
    state = federation.observe().state
    keys = [one.public_key for one in key_validity.of_site(state.charters, "north")]
    assert keys == [key_before, request.public_key]


def test_a_thief_of_the_old_key_cannot_speak_for_later_versions(federation):
    old = federation.keyring("north").load("site-north")
    reach(federation, 1)
    federation.run_process("north")
    rotate(federation, "north")
    approve(federation, "north")
    with_keys_of_charter(federation)
    reach(federation, 2)
    state = federation.observe().state
    forged = dataclasses.replace(
        state.updates["north", 1], key=layout.update("north", 3), base_version=3
    )
    thief = Publisher(
        federation.place, old, federation.charter.study, clock=federation.clock,
        track=federation.place.track, gate=NoGate(),
    )  # fmt: skip
    thief.publish_stamped(forged)
    rejected = federation.observe().state.rejected[layout.update("north", 3)]
    assert "for which the key that signed it does not count" in rejected


def test_a_lost_key_is_replaced_after_a_telephone_call(federation):
    reach(federation, 1)
    request = rotate(federation, "north", is_lost=True)
    assert not request.endorsement
    with pytest.raises(StudyError, match="compare key fingerprints|with another key"):
        approve(federation, "north")
    (entry,) = approve(federation, "north", replace_keys=True)
    assert entry.public_key == request.public_key
    assert entry.from_versions == {TRACK: 1}  # it has not answered this one
    with_keys_of_charter(federation)
    end(federation)


def test_somebody_elses_endorsement_is_worth_nothing(federation):
    reach(federation, 1)
    key, stranger = SigningKey.generate(), SigningKey.generate()
    before = federation.observe().state.joins["north"]
    Publisher(
        federation.place,
        key,
        federation.charter.study,
        clock=federation.clock,
        track=federation.place.track,
        gate=NoGate(),
    ).publish_stamped(
        dataclasses.replace(
            before,
            key=layout.join("north", 2),
            public_key=key.public,
            endorsement=stranger.endorse(before.study, "north", key.public),
        )
    )
    with pytest.raises(StudyError, match="with another key"):
        approve(federation, "north")


def test_a_new_aggregator_goes_on_from_the_next_version(federation):
    reach(federation, 1)
    other = Keyring(federation.home("other"), federation.charter.study)
    public = other.create("aggregator").public
    charter = replace_aggregator_key(office(federation), public)
    assert charter.aggregator_from_versions == {TRACK: 2}
    for site in federation.targets:
        federation.run_process(site)
    with pytest.raises(StudyError, match="another key for the aggregator"):
        federation.run_process("aggregator")
    federation.home("coordinator").rename(federation.home("retired"))
    federation.home("other").rename(federation.home("coordinator"))
    with_keys_of_charter(federation)
    end(federation)
    assert len(key_validity.of_aggregator(federation.observe().state.charters)) == 2


def test_the_aggregator_replaces_its_key_where_it_is(federation):
    reach(federation, 1)
    replace_aggregator_key(office(federation))
    with_keys_of_charter(federation)
    end(federation)
    with pytest.raises(StudyError, match="has this key already"):
        replace_aggregator_key(office(federation), office(federation).charter.aggregator_key)


def test_the_coordinator_replaces_its_key_and_goes_on(federation):
    replace_coordinator_key(office(federation))
    set_state(office(federation), ["north"], "paused")
    set_state(office(federation), ["north"], "active")
    state = federation.observe().state
    assert len(state.charters) == 5  # first, approval, key, pause, resume
    assert state.charters[5].coordinator_key != state.charters[2].coordinator_key
    end(federation)


def test_a_replaced_key_of_the_aggregator_admits_nobody_and_plans_nothing(federation):
    for site in federation.targets:
        federation.step(site)
    thief = federation.publisher("aggregator", "coordinator")
    replace_aggregator_key(office(federation))
    plan, text = planning.make_plan(
        sorted(federation.targets), federation.observe().state, federation.planner
    )
    assert "3 sites" in text
    thief.publish(plan)
    thief.publish(
        Admission(key=layout.admission("mallory"), site="mallory", announcement_sha256="0" * 64)
    )
    state = federation.observe().state
    assert state.plan is None
    assert not state.admissions
    reason = "the message is signed by a key of the aggregator that has been replaced"
    assert set(state.rejected.values()) == {reason}


def test_what_the_aggregator_decided_before_its_key_was_replaced_stays_believed(tmp_path):
    federation = Federation(tmp_path, min_sites=2)
    federation.start_with_late("north")
    for name in ("north", "aggregator", "aggregator"):  # the second look is at the new site
        federation.run_process(name)
    before = federation.observe().state
    assert set(before.admissions) == {"north"}
    replace_aggregator_key(office(federation))
    replace_aggregator_key(office(federation))
    with_keys_of_charter(federation)
    after = federation.observe().state
    assert (after.plan, after.admissions) == (before.plan, before.admissions)
    end(federation)


def test_a_new_aggregator_closes_a_study_whose_last_version_is_there(federation):
    reach(federation, 3)
    assert federation.observe().state.finished is None
    charter = replace_aggregator_key(office(federation))
    assert charter.aggregator_from_versions == {TRACK: 3}
    (federation.keyring("coordinator").folder / "aggregator.key").unlink()
    with_keys_of_charter(federation)
    end(federation)


@pytest.mark.parametrize("encryption", ["", "age"])
def test_processes_at_work_go_on_with_keys_that_are_replaced_meanwhile(tmp_path, encryption):
    federation = Federation(tmp_path, encryption=encryption).start()
    reach(federation, 1)
    rotate(federation, "north")
    approve(federation, "north")
    replace_aggregator_key(office(federation))
    federation.run()  # without a restart
    state = federation.observe().state
    assert not state.rejected
    assert len(state.rounds[3].updates) == 3
    signers = {len(key_validity.of_site(state.charters, site)) for site in ("north", "south")}
    assert signers == {1, 2}
