"""``fedfs verify``: a study is checked from its files; what is wrong is found."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest

from fedfs.errors import TensorError
from fedfs.exchange.read import open_study
from fedfs.exchange.retention import prune_versions
from fedfs.protocol import layout
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.reader import audit
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.choice_audit import verify_choice
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from support.federation import Federation, forge
from support.unlike_networks import NETWORKS, TARGETS


def findings(federation: Federation):
    return list(verify_study(open_study(federation.store)))


def problems(federation: Federation) -> dict[str, str]:
    return {f.subject: f.text for f in findings(federation) if f.level == PROBLEM}


@pytest.fixture(
    params=[
        {},
        {"strategy": "FedAdam"},
        {"encoding": "int8", "model_encoding": "topk"},
        {"policy": "buffer", "policy_options": {"size": 2}, "rounds": 4},
    ],
    ids=["plain", "memory", "encodings", "buffer"],
)
def finished(request, tmp_path):
    federation = Federation(tmp_path, **request.param).start()
    federation.run()
    return federation


def test_every_version_comes_out_bit_by_bit_the_same(finished):
    found = findings(finished)
    assert {f.level for f in found} == {OK}, [f for f in found if f.level != OK]
    n_versions = finished.observe().state.newest
    again = [f for f in found if "bit by bit the same" in f.text]
    assert [f.subject for f in again] == [f"version {v}" for v in range(1, n_versions + 1)]


@pytest.fixture
def plain(federation):
    federation.run()
    return federation


def test_the_store_is_only_read(plain):
    before = dict(plain.place.objects)
    findings(plain)
    assert plain.place.objects == before


def resigned(federation: Federation, key: str, host: str, role: str, state=None, **changes):
    """Let a rogue party put another message of its own under a key, with its own signature."""
    state = state or federation.observe().state
    message = next(
        m
        for m in (*state.rounds.values(), *state.models.values(), *state.updates.values())
        if m.key == key
    )
    signer = federation.keyring(host).load(role)
    forge(federation.place, key, signer.sign(dataclasses.replace(message, **changes)))


def test_a_rogue_aggregator_that_publishes_other_weights_is_found(plain):
    """It signs all of it: only making the version again tells."""
    state = plain.observe().state
    other = state.rounds[1].model
    key = layout.model_payload(2, other.sha256)
    plain.place.objects[key] = plain.place.objects[other.key]
    rogue = (plain, layout.round_record(2), "coordinator", "aggregator", state)
    moved, weights = dataclasses.replace(other, key=key), state.rounds[1].weights_sha256
    resigned(*rogue, model=moved, weights_sha256=weights)
    rogue = (plain, layout.model(2), "coordinator", "aggregator", state)
    resigned(*rogue, payload=moved, weights_sha256=weights)
    found = problems(plain)
    assert "it has other weights" in found["version 2"]


def test_a_rogue_aggregator_that_weighs_as_it_likes_is_found(plain):
    used = plain.observe().state.rounds[3].updates
    changed = (dataclasses.replace(used[0], weight=0.9), *used[1:])
    resigned(plain, layout.round_record(3), "coordinator", "aggregator", updates=changed)
    found = problems(plain)
    assert f"gives {used[0].site} the weight 0.9" in found[layout.round_record(3)]
    assert "version 3" in found


def test_an_update_that_was_exchanged_later_is_found(plain):
    key = layout.update("north", 1)
    resigned(plain, key, "north", "site-north", metrics={"train_loss": 0.0})
    found = problems(plain)
    assert "names another update of north" in found[layout.round_record(2)]


def test_a_damaged_payload_is_found(plain):
    update = plain.observe().state.updates["east", 0]
    good = plain.place.objects[update.payload.key].data
    forge(plain.place, update.payload.key, good[:-1] + bytes([good[-1] ^ 1]))
    found = problems(plain)
    assert "not those its name says" in found[update.payload.key]
    assert "version 1" in found


@pytest.mark.parametrize(
    "key",
    [layout.charter(2), layout.plan(), layout.round_record(2), layout.model(1), layout.FINISHED,
     layout.update("south", 2), layout.fingerprint("north")],
)  # fmt: skip
def test_a_changed_byte_in_any_message_is_found(plain, key):
    envelope = json.loads(plain.place.objects[key].data)
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[len(payload) // 2] ^= 1
    envelope["payload"] = base64.b64encode(payload).decode()
    forge(plain.place, key, json.dumps(envelope).encode())
    assert key in problems(plain)


def test_a_missing_payload_of_the_newest_version_is_a_problem_an_old_one_a_note(plain):
    state = plain.observe().state
    prune_versions(plain.place, state, 1)
    found = findings(plain)
    assert not [f for f in found if f.level == PROBLEM]
    assert [f for f in found if f.level == NOTE and "have been deleted" in f.text]
    assert [f for f in found if f.level == NOTE and "cannot be made again" in f.text]
    del plain.place.objects[state.models[state.newest].payload.key]
    assert "is named and not there" in str(problems(plain))


def test_what_nobody_names_is_noted(plain):
    stray = layout.update_payload("north", 1, "0" * 64)
    plain.place.create(stray, b"left behind")
    found = {f.subject: f for f in findings(plain) if f.subject == stray}
    assert found[stray].level in (NOTE, PROBLEM)


def test_a_study_from_which_a_site_was_removed_stays_verifiable(federation):
    while federation.observe().state.newest < 2:
        for name in (*federation.targets, "aggregator"):
            federation.step(name)
    office = Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    set_state(office, ["north"], "removed")
    for _ in range(20):
        for name in ("east", "south", "aggregator"):
            federation.run_process(name)
    assert federation.observe().state.finished is not None
    assert not problems(federation)


def test_two_readers_look_at_every_payload_that_is_named(plain, monkeypatch):
    assert not problems(plain)

    def disagree(path):
        raise TensorError("has other values of 'bias'")

    monkeypatch.setattr(audit, "check_both_readers", disagree)
    state = plain.observe().state
    assert set(problems(plain)) == set(state.payloads())
    assert set(problems(plain).values()) == {"the payload has other values of 'bias'"}


def test_payloads_that_are_encrypted_for_others_are_only_hashed(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    federation.run()
    found = findings(federation)
    assert not [f for f in found if f.level == PROBLEM]
    n_named = len(federation.observe().state.payloads())
    assert (
        Finding("payloads", NOTE, f"{n_named} are encrypted for others, and only hashed") in found
    )


def test_a_record_that_uses_two_updates_of_one_site_is_a_problem(plain):
    observer = open_study(plain.store)
    record = observer.state.rounds[2]
    (first, *_) = record.updates
    twice = (dataclasses.replace(first, base_version=0), *record.updates)
    observer.state.rounds[2] = dataclasses.replace(record, updates=twice)
    found = [f for f in verify_study(observer, recompute=False) if f.level == PROBLEM]
    assert [(f.subject, f.text) for f in found] == [
        (layout.round_record(2), "uses two updates of one site")
    ]


def run_to(federation: Federation, version: int, *sites: str) -> None:
    while federation.observe().state.newest < version:
        for name in (*sites, "aggregator"):
            federation.run_process(name)


def office(federation: Federation) -> Coordinator:
    return Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)


@pytest.mark.parametrize("mode", ["ffe", "asym"])
def test_a_site_that_came_late_and_was_removed_is_no_problem(tmp_path, mode):
    options = {"mode": mode, "min_coverage": 0.1, "min_sites": 3, "rounds": 3}
    federation = Federation(tmp_path, targets=TARGETS, networks=NETWORKS, **options)
    federation.join("east", "north", "south")
    federation.approve()
    run_to(federation, 1, "east", "north", "south")
    federation.join("west")
    federation.approve("west")
    run_to(federation, 2, "west", "east", "north", "south")
    assert "west" in {used.site for used in federation.observe().state.rounds[2].updates}
    set_state(office(federation), ["west"], "removed")
    run_to(federation, 3, "east", "north", "south")
    assert problems(federation) == {}


def test_scores_that_came_after_the_choice_are_a_note(tmp_path):
    federation = Federation(tmp_path, configuration="2d,3d_fullres", rounds=1).start()
    tracks = {name: federation.observe(track=name) for name in federation.tracks}
    while not all(one.refresh(everything=True).finished for one in tracks.values()):
        for name in ("east", "north", "south", "aggregator"):
            federation.step(name)
    set_state(office(federation), ["north"], "paused")
    while federation.observe().state.choice is None:
        for name in ("east", "south", "aggregator"):
            federation.step(name)
    set_state(office(federation), ["north"], "active")
    federation.run()
    shared = federation.observe()
    assert sorted(shared.state.cross_validations) == ["east", "north", "south"]
    found = list(verify_choice(shared, {n: federation.observe(track=n) for n in tracks}))
    assert [finding.level for finding in found] == [NOTE, OK]
    assert "without north" in found[0].text
