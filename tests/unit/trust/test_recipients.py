"""``encryption = "age"``: who can read what, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import numpy as np
import pytest

from fedfs.errors import SealedError, SetupError, StudyError, UserError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.protocol.messages import PayloadRef
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.keys import replace_aggregator_key
from fedfs.roles.coordinator.roster import approve_sites, set_state
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import NOTE, PROBLEM
from fedfs.roles.site.join import ask_for_new_key
from fedfs.roles.site.training import _pretrained
from fedfs.tensors.canonical import write_safetensors
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault
from fedfs.trust.sealing import MAGIC
from fedfs.trust.signing import SigningKey
from support import invariants
from support.federation import INITIAL, Federation, forge, reach, with_keys_of_charter
from support.forgery import NoGate
from support.unlike_networks import NETWORKS, TARGETS

OPTIONS = [
    {},
    {"strategy": "FedAdam", "encoding": "int8", "model_encoding": "topk", "keyframe_every": 2},
]


@pytest.fixture(params=OPTIONS, ids=["plain", "deltas"])
def finished(request, tmp_path):
    federation = Federation(tmp_path, encryption="age", **request.param).start()
    federation.run()
    return federation


def test_a_study_ends_with_the_same_models_as_without(finished, tmp_path, request):
    options = request.node.callspec.params["finished"]
    state = finished.observe().state
    invariants.check(state)
    assert not state.rejected
    open_ = Federation(tmp_path / "open", **options).start()
    open_.run()
    for version in state.models:
        for name, values in open_.weights(version).items():
            np.testing.assert_array_equal(finished.weights(version)[name], values)


def payload_of(observer, ref: PayloadRef, tmp_path):
    return fetch_payload(
        observer.store,
        ref,
        tmp_path / "payloads",
        max_bytes=MAX_MODEL_BYTES,
        vault=observer.vault,
    )


def test_only_the_aggregator_reads_updates_and_only_the_roster_models(finished, tmp_path):
    store = finished.place
    payloads = [key for key in store.objects if layout.parse(key).is_payload]
    assert len(payloads) > 10
    assert all(store.objects[key].data.startswith(MAGIC) for key in payloads)
    hosts = {host: finished.observe(host) for host in ("coordinator", "north", "stranger")}
    update = hosts["north"].state.updates["east", 0].payload
    model = hosts["north"].state.models[2].full or hosts["north"].state.models[2].payload
    assert payload_of(hosts["coordinator"], update, tmp_path)
    (tmp_path / "payloads" / f"{update.content_sha256}.safetensors").unlink()
    for host in ("north", "stranger"):
        with pytest.raises(SealedError):
            payload_of(hosts[host], update, tmp_path)
    with pytest.raises(SealedError):
        payload_of(hosts["stranger"], model, tmp_path)
    assert payload_of(hosts["north"], model, tmp_path)
    own = hosts["north"].state.updates["north", 0].payload
    assert payload_of(hosts["north"], own, tmp_path)  # to test what it tells


def test_only_the_aggregator_reads_fingerprints_and_only_the_roster_plans(finished):
    coordinator, north = finished.observe().state, finished.observe("north").state
    stranger = finished.observe("stranger").state
    assert coordinator.fingerprints["east"].geometry  # the aggregator's key is on that host
    assert coordinator.fingerprints["east"].n_cases == 10
    for other in (north, stranger):
        assert other.fingerprints["east"].geometry == ()
        assert other.fingerprints["east"].channels == ()
        assert other.fingerprints["east"].n_cases == 10
    assert north.plan.plans
    assert north.plan.plans == coordinator.plan.plans
    assert stranger.plan.plans == {}
    assert stranger.plan.fingerprint == {}
    assert stranger.plan.n_cases == 60  # who takes part is no secret


def test_everything_is_verified_as_ever(finished):
    found = list(verify_study(finished.observe()))
    assert not [f for f in found if f.level == PROBLEM]
    assert sum("bit by bit the same" in f.text for f in found) == 3
    stranger = list(verify_study(finished.observe("stranger")))
    assert not [f for f in stranger if f.level == PROBLEM]
    notes = [f for f in stranger if f.level == NOTE]
    assert sum("cannot decrypt" in f.text for f in notes) == 3


def test_what_is_encrypted_cannot_be_changed(finished, tmp_path):
    state = finished.observe().state
    ref = state.models[3].full or state.models[3].payload
    good = finished.place.objects[ref.key].data
    forge(finished.place, ref.key, good[:-1] + bytes([good[-1] ^ 1]))
    found = list(verify_study(finished.observe()))
    assert [f for f in found if f.level == PROBLEM and f.subject == ref.key]


def test_a_site_that_comes_late_reads_what_was_before(tmp_path):
    targets = {"east": 1.0, "north": 2.0, "south": -3.0}
    federation = Federation(tmp_path, targets=targets, min_sites=2, encryption="age", rounds=4)
    federation.join("east", "south")
    federation.approve()
    while federation.observe().state.newest < 1:
        for name in ("east", "south", "aggregator"):
            federation.run_process(name)
    federation.join("north")
    federation.approve("north")
    assert len(federation.observe().state.charter.read_keys) == 1
    federation.run()
    state = federation.observe().state
    assert not state.rejected
    assert "north" in {u.site for r in state.rounds.values() for u in r.updates}
    assert federation.observe("north").state.plan.plans


def test_a_removed_site_reads_nothing_that_follows(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    federation = Federation(tmp_path, encryption="age", rounds=4).start()
    while federation.observe().state.newest < 1:
        for name in (*federation.targets, "aggregator"):
            federation.step(name)
    office = Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    charter = set_state(office, ["north"], "removed")
    assert [pair.number for pair in charter.read_keys] == [1, 2]
    assert "site-north cannot read what comes from now on" in caplog.text
    for _ in range(20):
        for name in ("east", "south", "aggregator"):
            federation.run_process(name)
    state = federation.observe().state
    assert state.finished is not None
    north = federation.observe("north")
    before = state.models[1].full
    assert payload_of(north, before, tmp_path)
    with pytest.raises(SealedError):
        payload_of(north, state.models[4].full, tmp_path / "x")
    assert payload_of(federation.observe("east"), state.models[4].full, tmp_path / "y")


def test_a_removed_site_that_comes_back_with_its_key_reads_on(tmp_path):
    federation = Federation(tmp_path, encryption="age", rounds=3).start()
    reach(federation, 1)
    home = federation.home("coordinator")
    office = Coordinator(federation.store, home, clock=federation.clock)
    set_state(office, ["north"], "removed")
    approve_sites(office, ["north"], replace_keys=True)
    assert len(office.charter.read_keys) == 2
    federation.run()
    state = federation.observe().state
    assert payload_of(federation.observe("north"), state.models[3].payload, tmp_path)


def test_a_site_with_a_new_key_reads_on(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    while federation.observe().state.newest < 1:
        for name in (*federation.targets, "aggregator"):
            federation.step(name)
    keyring = federation.keyring("north")
    ask_for_new_key(federation.store, keyring, "north", is_lost=False, clock=federation.clock)
    home = federation.home("coordinator")
    approve_sites(Coordinator(federation.store, home, clock=federation.clock), ["north"])
    # The old identity is gone: what the site reads it reads with the new one.
    (keyring.folder / "site-north.age").unlink()
    assert federation.observe("north").state.plan.plans


def copied_keys(federation: Federation, host: str) -> None:
    """Let a thief take the keys of a host."""
    taken, study = federation.keyring("thief").folder, federation.keyring(host).folder
    shutil.copytree(study, taken)


def test_a_stolen_key_that_was_replaced_reads_nothing_that_follows(tmp_path):
    federation = Federation(tmp_path, encryption="age", rounds=2).start()
    reach(federation, 1)
    copied_keys(federation, "north")
    keyring, home = federation.keyring("north"), federation.home("coordinator")
    ask_for_new_key(federation.store, keyring, "north", is_lost=True, clock=federation.clock)
    office = Coordinator(federation.store, home, clock=federation.clock)
    approve_sites(office, ["north"], replace_keys=True)
    assert [pair.number for pair in office.charter.read_keys] == [1, 2]
    with_keys_of_charter(federation)
    federation.run()
    state = federation.observe().state
    thief = federation.observe("thief")
    assert payload_of(thief, state.models[1].payload, tmp_path / "before")
    with pytest.raises(SealedError):
        payload_of(thief, state.models[2].payload, tmp_path / "after")
    assert payload_of(federation.observe("north"), state.models[2].payload, tmp_path / "own")


def test_a_former_aggregator_reads_nothing_that_follows(tmp_path):
    federation = Federation(tmp_path, encryption="age", rounds=2).start()
    reach(federation, 1)
    keyring = federation.keyring("coordinator")
    thief = federation.keyring("thief").folder
    thief.mkdir(parents=True)
    shutil.copy(keyring.folder / "aggregator.age", thief)
    replace_aggregator_key(
        Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    )
    with_keys_of_charter(federation)
    federation.run()
    state = federation.observe().state
    with pytest.raises(SealedError):
        payload_of(federation.observe("thief"), state.models[2].payload, tmp_path / "model")
    update = state.updates["north", 1].payload
    with pytest.raises(SealedError):
        payload_of(federation.observe("thief"), update, tmp_path / "update")
    assert payload_of(federation.observe(), update, tmp_path / "own")


def test_a_new_key_without_another_encryption_key_is_refused(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    office = Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    other = Keyring(federation.home("other"), federation.charter.study)
    public = other.create("aggregator").public
    for encryption_key in (None, office.charter.aggregator_encryption_key):
        with pytest.raises(UserError, match="needs an encryption key of its own"):
            replace_aggregator_key(office, public, encryption_key)
    recipient = other.create_identity("aggregator").recipient
    assert replace_aggregator_key(office, public, recipient).read_keys[-1].number == 2
    key = federation.publisher("site-north", "north")
    before = federation.observe().state.joins["north"]
    fresh = SigningKey.generate()
    Publisher(
        federation.store,
        fresh,
        federation.charter.study,
        clock=federation.clock,
        track=key.track,
        gate=NoGate(),
    ).publish(
        dataclasses.replace(before, key="sites/north/join-0002.json", public_key=fresh.public)
    )
    office = Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    with pytest.raises(StudyError, match="keeps its encryption key"):
        approve_sites(office, ["north"], replace_keys=True)


def test_a_site_without_an_encryption_key_is_not_approved(tmp_path):
    federation = Federation(tmp_path, encryption="age")
    federation.join("east", "south", "north")
    state = federation.observe().state
    key = federation.publisher("site-north", "north")
    key.publish_stamped(
        dataclasses.replace(state.joins["north"], key=layout.join("north", 2), encryption_key="")
    )
    with pytest.raises(StudyError, match="has named no encryption key"):
        federation.approve()


def test_the_coordinator_needs_its_own_identity(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    folder = federation.keyring("coordinator").folder
    (folder / "coordinator.age").rename(tmp_path / "elsewhere")
    federation.targets["late"] = 0.0
    federation.learners["late"] = federation.learners["east"]
    federation.join("late")
    with pytest.raises(StudyError, match="cannot decrypt the study's keys"):
        federation.approve("late")


def test_weights_to_start_from_are_for_the_roster_only(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "weights", INITIAL)
    federation = Federation(
        tmp_path, encryption="age", mode="asym", pretrained=tmp_path / "weights"
    ).start()
    charter = federation.observe().state.charter
    assert federation.place.objects[charter.pretrained.key].data.startswith(MAGIC)
    for host in ("coordinator", "north"):
        path = _pretrained(
            federation.store, charter, tmp_path / host / "cache", Vault(federation.home(host))
        )
        assert path.read_bytes() == (tmp_path / "weights").read_bytes()
    with pytest.raises(SealedError):
        _pretrained(federation.store, charter, tmp_path / "c", Vault(federation.home("stranger")))


def test_a_vault_of_a_host_without_keys_opens_nothing(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    for vault in (None, Vault(), Vault(tmp_path / "nowhere")):
        observer = open_study(federation.store, vault=vault)
        assert observer.state.charter.encryption == "age"
    with pytest.raises(SealedError, match="holds no key"):
        Vault().unseal(b"x")


def test_a_site_that_plans_for_itself_goes_on_with_a_new_key(tmp_path):
    """Its plan is encrypted for the key that it lost; it makes the same one again."""
    federation = Federation(
        tmp_path, encryption="age", rounds=2, mode="asym", networks=NETWORKS, targets=TARGETS,
        min_coverage=0.0,
    ).start()  # fmt: skip
    reach(federation, 1)
    keyring, home = federation.keyring("north"), federation.home("coordinator")
    for path in keyring.folder.iterdir():
        path.unlink()
    ask_for_new_key(federation.store, keyring, "north", is_lost=True, clock=federation.clock)
    office = Coordinator(federation.store, home, clock=federation.clock)
    approve_sites(office, ["north"], replace_keys=True)
    with_keys_of_charter(federation)
    assert not federation.observe("north").state.site_plans["north"].tensors
    federation.run()
    state = federation.observe().state
    assert "north" in {update.site for update in state.rounds[2].updates}
    federation.learners["north"].network = {}
    with pytest.raises(SetupError, match="another plan than this site has published"):
        federation.make_site("north")._networks.load(2, federation.observe("north").state)
