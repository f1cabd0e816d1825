"""Secure sums: a study whose aggregator sees no update, and whose helper sees none either."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedfs.errors import SetupError, StudyError
from fedfs.exchange.payloads import fetch_payload
from fedfs.protocol import layout
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.rounds import close_round
from fedfs.roles.helper.join import ask_for_new_keys
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK
from fedfs.tensors.canonical import TensorFile
from fedfs.trust.recipients import Vault
from support import invariants
from support.federation import HELPER, Federation, reach, with_keys_of_charter

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
SECURE = {"secure_sums": True, "encryption": "age", "targets": TARGETS, "rounds": 2}
FOUR = {**TARGETS, "west": 0.05}


def coordinator_of(federation: Federation) -> Coordinator:
    return Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)


def train(federation: Federation, *but: str) -> None:
    """Let the aggregator publish what there is, and all sites but some answer it."""
    federation.run_process("aggregator")
    for site in federation.targets:
        if site not in but:
            federation.run_process(site)


def ask(federation: Federation, *but: str) -> None:
    """Come so far that the helper is asked for the sum for version 1."""
    for site in federation.targets:
        federation.run_process(site)
    train(federation, *but)
    federation.run_process("aggregator")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("secure"), **SECURE).start()
    federation.run()
    return federation


def test_versions_are_those_of_a_study_without_secure_sums(finished, tmp_path):
    options = {**SECURE, "secure_sums": False, "encoding": "fixed", "max_move_ratio": 0}
    plain = Federation(tmp_path, **options).start()
    plain.run()
    for version in (1, 2):
        for name, value in finished.weights(version).items():
            np.testing.assert_allclose(value, plain.weights(version)[name], atol=2**-12)
    weights = [update.weight for update in finished.observe().state.rounds[1].updates]
    assert weights == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=2**-12)


def test_invariants_hold_and_nothing_is_rejected(finished):
    state = finished.observe().state
    assert not state.rejected
    invariants.check(state)
    assert state.statuses[HELPER_SITE].step == "finished"


def test_every_version_is_made_again_by_who_holds_the_aggregators_key(finished):
    findings = list(verify_study(finished.observe()))
    assert {f.level for f in findings} == {OK}
    assert sum("bit by bit the same" in f.text for f in findings) == 2
    assert sum("of 3 updates that nobody saw" in f.text for f in findings) == 2


def test_the_helper_cannot_read_updates_and_the_aggregator_sees_only_noise(finished, tmp_path):
    observer = finished.observe()
    update = observer.state.updates["north", 0]
    vault = Vault(finished.home(HELPER))
    for charter in observer.state.charters.values():
        vault.learn(charter.whole())
    with pytest.raises(Exception, match="cannot be decrypted"):
        fetch_payload(observer.store, update.payload, tmp_path, max_bytes=2**20, vault=vault)
    path = fetch_payload(
        observer.store, update.payload, tmp_path, max_bytes=2**20, vault=observer.vault
    )
    with TensorFile(path) as file:
        values = np.concatenate([file.read(name).ravel() for name in file.names])
    assert np.abs(values.astype(np.int64)).max() > 2**24  # levels are below 2**18


def test_a_site_waits_for_a_helper_before_it_trains(tmp_path):
    federation = Federation(tmp_path, **SECURE)
    federation.join()
    federation.approve()
    for name in (*TARGETS, "aggregator", *TARGETS):
        outcome = federation.run_process(name)
    assert "approve a helper" in outcome.text
    federation.join_helper()
    assert "approve this helper" in federation.run_process(HELPER).text
    federation.approve_helper()
    assert "published the update" in federation.step("north").text


def test_a_round_waits_for_the_helper_and_says_so(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    ask(federation)
    outcome = federation.step("aggregator")
    assert not outcome.worked
    assert "the helper's sum for version 1" in outcome.text
    federation.kill("aggregator")  # who comes back fetches what the request names
    federation.run_process(HELPER)
    assert "published version 1 from 3 updates" in federation.step("aggregator").text


@pytest.mark.parametrize("encoding", ["fixed", "randk"])
def test_late_updates_are_added_where_the_encoding_can(tmp_path, encoding):
    policy = {"policy": "quorum", "policy_options": {"sites": 3, "grace_minutes": 0}}
    options = {**SECURE, "targets": FOUR, "encoding": encoding, "rounds": 3, **policy}
    if encoding == "randk":
        options["encoding_options"] = {"fraction": 0.001}
    federation = Federation(tmp_path, **options).start()
    site = federation.learners["west"]
    train_now = site.train

    def train_slowly(task, tensors, report):
        if task.version == 0:
            for name in ("aggregator", HELPER, "aggregator"):
                federation.run_process(name)
        return train_now(task, tensors, report)

    site.train = train_slowly
    for name in (*FOUR, "aggregator", "east", "north", "south"):
        federation.run_process(name)
    while ("west", 0) not in federation.observe().state.updates:
        federation.step("west")
    assert federation.observe().state.newest == 1
    for name in ("east", "north", "south", "aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    record = federation.observe().state.rounds[2]
    used = {update.site: update.base_version for update in record.updates}
    if encoding == "fixed":
        assert used["west"] == 0
        return
    assert "west" not in used
    (excluded,) = record.excluded
    assert "with randk a sum has updates from 1 alone" in excluded.reason


def test_new_keys_of_the_helper_open_what_was_for_the_old_ones(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    ask(federation)
    ask_for_new_keys(federation.store, federation.home(HELPER), clock=federation.clock)
    federation.approve_helper()
    with_keys_of_charter(federation)
    federation.run()
    state = federation.observe().state
    assert state.charter.secure_sums.helper_number == 1
    assert all(len(state.rounds[version].updates) == 3 for version in (1, 2))
    assert not state.rejected


def test_another_helper_is_not_asked_for_what_the_one_before_knows(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    ask(federation)
    federation.join_helper("somebody else")
    with pytest.raises(StudyError, match="somebody else asks"):
        federation.approve_helper()
    federation.approve_helper(another=True)
    federation.kill(HELPER)
    federation.processes[HELPER] = federation.make_helper(host="somebody else")
    federation.run()
    state = federation.observe().state
    assert not state.rounds[1].updates
    assert {item.reason for item in state.rounds[1].excluded} == {
        "the sum that it was to be part of has been given up"
    }
    assert len(state.rounds[2].updates) == 3
    assert {f.level for f in verify_study(federation.observe())} == {OK}


def test_another_helper_before_a_request_closes_the_round_too(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    for site in TARGETS:
        federation.run_process(site)
    train(federation, "south")
    federation.join_helper("somebody else")
    federation.approve_helper(another=True)
    federation.processes[HELPER] = federation.make_helper(host="somebody else")
    federation.run()
    state = federation.observe().state
    reasons = {item.site: item.reason for item in state.rounds[1].excluded}
    assert reasons.keys() == {"east", "north"}
    assert all("known to an earlier helper" in reason for reason in reasons.values())
    assert state.finished is not None


def test_the_coordinator_gives_up_a_sum_that_does_not_come(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    ask(federation)
    close_round(coordinator_of(federation))
    assert "equal to the one before" in federation.step("aggregator").text
    for name, value in federation.weights(1).items():
        np.testing.assert_array_equal(value, federation.weights(0)[name])
    assert not federation.run_process(HELPER).done
    federation.run()
    assert len(federation.observe().state.rounds[2].updates) == 3


def test_a_helper_without_its_encryption_key_says_so_and_leaves_nobody_out(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    ask(federation)
    (federation.keyring(HELPER).folder / "helper.age").unlink()
    with pytest.raises(SetupError, match="lacks the helper's encryption key"):
        federation.run_process(HELPER)
    assert layout.mask_sum(1) not in federation.observe().state.digests


def test_a_host_that_is_the_aggregators_cannot_be_the_helper(tmp_path):
    federation = Federation(tmp_path, **SECURE)
    with pytest.raises(StudyError, match="would see|sees every update"):
        federation.join_helper("coordinator")


def test_a_helper_deletes_sums_that_have_been_used(tmp_path):
    federation = Federation(tmp_path, **{**SECURE, "rounds": 3}).start()
    helper = federation.process(HELPER)
    helper._keep_versions = 1
    federation.run()
    left = [key for key in federation.place.objects if "/sum-" in key]
    assert {layout.parse(key).version for key in left} == {2, 3}


@pytest.mark.parametrize(
    "choice", [{"strategy": "FedAdam"}, {"ema": 0.5, "average_last": 2}, {"model_encoding": "int8"}]
)
def test_sums_go_with_what_needs_no_single_update(tmp_path, choice):
    federation = Federation(tmp_path, **SECURE, **choice).start()
    federation.run()
    assert {f.level for f in verify_study(federation.observe())} == {OK}


def test_unlike_networks_sum_what_enough_sites_share(tmp_path):
    networks = {site: {"enc.0": [2, 2], "enc.1": [3]} for site in FOUR}
    networks["west"]["only.west"] = [4]
    for site in ("east", "west"):
        networks[site]["two.share"] = [5]
    for site in ("east", "north", "west"):
        networks[site]["three.share"] = [6]
    federation = Federation(
        tmp_path, **{**SECURE, "targets": FOUR}, mode="asym", alignment="name", min_coverage=0.1,
        networks=networks, policy="quorum", policy_options={"sites": 3},
    ).start()  # fmt: skip
    ask(federation, "west")
    federation.run_process(HELPER)
    federation.run()
    observer = federation.observe()
    first, second = (
        {name: g.sites for g in observer.state.rounds[n].participation for name in g.tensors}
        for n in (1, 2)
    )
    common, other, three = sorted(first)
    assert not any("two" in name for name in first)  # it is private
    assert first[common] == first[other] == ("east", "north", "south")
    assert first[three] == ()  # west was late
    assert second[three] in ((), ("east", "north", "west"))
    before, after = federation.weights(0), federation.weights(1)
    np.testing.assert_array_equal(before[three], after[three])
    assert not np.array_equal(before[common], after[common])
    assert {f.level for f in verify_study(observer)} == {OK}


def test_several_tracks_have_sums_of_their_own(tmp_path):
    options = {**SECURE, "rounds": 1, "configuration": "2d,3d_fullres"}
    federation = Federation(tmp_path, **options).start()
    federation.planner.configurations = ("2d", "3d_fullres")
    federation.run()
    for track in federation.tracks:
        assert len(federation.observe(track=track).state.rounds[1].updates) == 3


def test_a_site_scales_its_update_down(tmp_path):
    federation = Federation(tmp_path, **SECURE, site_clip_norm=0.01).start()
    reach(federation, 1)
    moved = np.concatenate(
        [
            (federation.weights(1)[n] - federation.weights(0)[n]).ravel()
            for n in federation.weights(0)
        ]
    )
    assert np.linalg.norm(moved) <= 0.0101


def test_the_charter_of_another_helper_cannot_change_the_rules(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    coordinator = coordinator_of(federation)
    rules = coordinator.charter.secure_sums
    coordinator.amend(secure_sums=dataclasses.replace(rules, min_sites=1))
    state = federation.observe().state
    assert "changes the rules of secure sums" in state.rejected[layout.charter(4)]
