"""Who could see a single update in a study with secure sums, or spoil a sum: each is refused."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest

from fedfs.errors import MalformedError, MisplacedError, SignatureError
from fedfs.exchange.payloads import fetch_payload
from fedfs.exchange.publish import Publisher
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import MaskSum, SummedUpdate, SumRequest, UpdateManifest
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.trust import sealing
from support.federation import HELPER, Federation, forge
from support.forgery import add, message_at, resign

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3, "west": 0.05}
REQUEST, ANSWER = layout.sum_request(1), layout.mask_sum(1)
UPDATE = layout.update("north", 0)


def asked(folder, **options) -> Federation:
    """A study of four sites whose aggregator has asked for the sum for version 1."""
    federation = Federation(
        folder, **{"secure_sums": True, "encryption": "age", "targets": TARGETS, "rounds": 2}
        | options,
    ).start()  # fmt: skip
    for name in (*TARGETS, "aggregator", *TARGETS, "aggregator"):
        federation.run_process(name)
    return federation


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Is changed by no test: the helper is asked with copies of its store."""
    return asked(tmp_path_factory.mktemp("waiting"))


def request_of_rogue(federation: Federation, **changes) -> bytes:
    return resign(federation, REQUEST, "coordinator", "aggregator", **changes)


def with_request(federation: Federation, **changes) -> str:
    """What the helper says to a request that a rogue aggregator has signed."""
    before = federation.place.objects[REQUEST]
    forge(
        federation.place,
        REQUEST,
        resign(federation, REQUEST, "coordinator", "aggregator", **changes),
    )
    try:
        outcome = federation.new_process(HELPER).step()
    finally:
        federation.place.objects[REQUEST] = before
    assert not outcome.worked
    assert ANSWER not in federation.place.objects
    return outcome.text


def counts(federation: Federation, *numbers: int) -> tuple[SummedUpdate, ...]:
    updates = message_at(federation, REQUEST, SumRequest).updates
    return tuple(
        dataclasses.replace(update, coefficient=n)
        for update, n in zip(updates, numbers, strict=False)
    )


REQUESTS = {
    "one site": (lambda f: counts(f, 4096), "a sum of 1 sites; the charter wants 3"),
    "two sites": (lambda f: counts(f, 2048, 2048), "a sum of 2 sites; the charter wants 3"),
    "one hides the others": (lambda f: counts(f, 4000, 1, 1, 1), "is more than 0.8 of all"),
    "nothing of one": (lambda f: counts(f, 1, 1, 1, 0), "not each at least 1"),
    "more than fits": (lambda f: counts(f, 4000, 4000, 4000, 4000), "at most 8191 in all"),
    "another update of a site": (
        lambda f: (
            dataclasses.replace(counts(f, 9)[0], manifest_sha256="0" * 64),
            *counts(f, 9, 9, 9)[1:],
        ),
        "the manifests of the updates of east",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_the_helper_answers_no_request_that_would_show_an_update(waiting, name):
    make, reason = REQUESTS[name]
    assert reason in with_request(waiting, updates=make(waiting))


def test_the_helper_says_in_its_status_what_it_does_not_answer(tmp_path):
    federation = asked(tmp_path)
    updates = counts(federation, 4096)
    forge(
        federation.place,
        REQUEST,
        resign(federation, REQUEST, "coordinator", "aggregator", updates=updates),
    )
    federation.run_process(HELPER)
    status = federation.observe().state.statuses[HELPER_SITE]
    assert "a sum of 1 sites" in status.rejected[REQUEST]


def test_sets_of_too_many_values_are_not_answered(waiting):
    many = {f"t{i}": (2**31,) for i in range(2)}
    assert "it asks for 2 tensors of" in with_request(waiting, tensors=many)


def test_a_tensor_of_two_sites_is_not_answered(waiting):
    names = tuple(sorted(message_at(waiting, REQUEST, SumRequest).tensors))
    groups = (
        messages.Participation(sites=("east", "north"), tensors=names[:1]),
        messages.Participation(sites=("east", "north", "south", "west"), tensors=names[1:]),
    )
    assert f"of the tensor {names[0]!r}" in with_request(waiting, shared=groups)


def publish_request(federation: Federation, version: int, request: SumRequest) -> None:
    publisher: Publisher = federation.publisher("aggregator", "coordinator")
    publisher.publish(
        dataclasses.replace(request, key=layout.sum_request(version), version=version)
    )


def test_an_update_is_in_one_sum_alone(tmp_path):
    federation = asked(tmp_path)
    first = message_at(federation, REQUEST, SumRequest)
    for name in (HELPER, "aggregator"):
        federation.run_process(name)
    publish_request(federation, 2, dataclasses.replace(first, updates=first.updates[:3]))
    text = federation.new_process(HELPER).step().text
    assert "the update of east from version 0 was in a sum before" in text


def test_a_store_that_was_rolled_back_gets_no_second_sum(tmp_path):
    federation = asked(tmp_path)
    updates = message_at(federation, REQUEST, SumRequest).updates[:3]
    federation.run_process(HELPER)
    for key in list(federation.place.objects):
        if key.startswith("helper/sums/"):
            del federation.place.objects[key]
    assert federation.new_process(HELPER).step().worked  # the same request: the same sum
    for key in list(federation.place.objects):
        if key.startswith("helper/sums/"):
            del federation.place.objects[key]
    assert "was in a sum before" in with_request(federation, updates=updates)


@pytest.mark.parametrize("seed", ["elsewhere", "short", "garbage", "long", "copied"])
def test_a_seed_that_cannot_be_used_is_left_out_and_named(tmp_path, seed):
    federation = Federation(
        tmp_path, secure_sums=True, encryption="age", targets={**TARGETS, "north": 0.0}, rounds=1
    ).start()  # fmt: skip
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    own = message_at(federation, UPDATE, UpdateManifest)
    stranger = sealing.Identity.generate().recipient
    made = {
        "elsewhere": base64.b64encode(sealing.seal(bytes(32), [stranger])).decode(),
        "short": base64.b64encode(sealing.seal(bytes(31), [own.seed_for])).decode(),
        "garbage": "no base64!",
        "long": "A" * 10_000,
        "copied": message_at(federation, layout.update("south", 0), UpdateManifest).seed,
    }[seed]
    forge(federation.place, UPDATE, resign(federation, UPDATE, "north", "site-north", seed=made))
    federation.kill("aggregator")
    for name in ("aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    state = federation.observe().state
    reason = state.mask_sums[1].left_out["north"]
    assert "seed of its mask" in reason
    if seed == "copied":  # who of the two has copied cannot be told, and two are too few
        assert not state.rounds[1].updates
        return
    assert [update.site for update in state.rounds[1].updates] == ["east", "south", "west"]
    assert [(item.site, item.reason) for item in state.rounds[1].excluded] == [("north", reason)]


def test_a_masked_payload_of_another_type_is_refused(tmp_path):
    federation = Federation(
        tmp_path, secure_sums=True, encryption="age", targets=TARGETS, rounds=1
    ).start()  # fmt: skip
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    own, publisher = (
        message_at(federation, UPDATE, UpdateManifest),
        federation.publisher("site-north", "north"),
    )
    path = tmp_path / "other.safetensors"
    with TensorFile(_plain(federation, own, tmp_path)) as file:
        write_safetensors(
            path, {n: file.read(n).view("<u4") for n in file.names},
            dtypes=dict.fromkeys(file.names, "U32"),
        )  # fmt: skip
    charter = federation.observe().state.charter
    payload = publisher.payload(
        path, lambda sha256: layout.update_payload("north", 0, sha256),
        sealed_for=[charter.aggregator_encryption_key],
    )  # fmt: skip
    forge(
        federation.place, UPDATE, resign(federation, UPDATE, "north", "site-north", payload=payload)
    )
    federation.kill("aggregator")
    for name in ("aggregator", HELPER, "aggregator"):
        federation.run_process(name)
    (excluded,) = federation.observe().state.rounds[1].excluded
    assert "U32" in excluded.reason


def _plain(federation: Federation, update: UpdateManifest, folder):

    observer = federation.observe()
    return fetch_payload(
        observer.store, update.payload, folder, max_bytes=2**20, vault=observer.vault
    )


def test_a_wrong_sum_makes_no_version_and_names_the_sum(tmp_path):
    federation = asked(tmp_path)
    federation.run_process(HELPER)
    answer = message_at(federation, ANSWER, MaskSum)
    path = tmp_path / "wrong.safetensors"
    observer = federation.observe()
    with TensorFile(_plain(federation, answer, tmp_path)) as file:
        write_safetensors(
            path, {n: file.read(n) + 2**31 for n in file.names},
            dtypes=dict.fromkeys(file.names, "U32"),
        )  # fmt: skip
    payload = federation.publisher("helper", HELPER).payload(
        path, lambda sha256: layout.payload_of_version("mask-sum", 1, sha256),
        sealed_for=[observer.state.charter.aggregator_encryption_key],
    )  # fmt: skip
    forge(federation.place, ANSWER, resign(federation, ANSWER, HELPER, "helper", payload=payload))
    federation.kill("aggregator")
    outcome = federation.run_process("aggregator")
    assert "mask sum does not hold the masks of these updates" in outcome.text
    assert federation.observe().state.newest == 0


@pytest.mark.parametrize("added", [0, 2**17])
def test_a_site_that_does_not_bound_its_update_is_noticed(tmp_path, added):
    federation = Federation(
        tmp_path, secure_sums=True, encryption="age", targets=TARGETS, rounds=1, site_clip_norm=0.01
    ).start()  # fmt: skip
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    path, own = tmp_path / "long.safetensors", message_at(federation, UPDATE, UpdateManifest)
    with TensorFile(_plain(federation, own, tmp_path)) as file:
        write_safetensors(path, {n: file.read(n) + np.int32(added) for n in file.names})
    charter, publisher = (
        federation.observe().state.charter,
        federation.publisher("site-north", "north"),
    )
    payload = publisher.payload(
        path, lambda sha256: layout.update_payload("north", 0, sha256),
        sealed_for=[charter.aggregator_encryption_key],
    )  # fmt: skip
    forge(
        federation.place, UPDATE, resign(federation, UPDATE, "north", "site-north", payload=payload)
    )
    federation.kill("aggregator")
    for name in ("aggregator", HELPER):
        federation.run_process(name)
    outcome = federation.run_process("aggregator")
    assert ("a site has not" in outcome.text) == bool(added)
    assert federation.observe().state.newest == (0 if added else 1)


def shared_with(federation: Federation, *sites: str) -> tuple[messages.Participation, ...]:
    names = tuple(sorted(message_at(federation, REQUEST, SumRequest).tensors))
    return (messages.Participation(sites=sites, tensors=names),)


MESSAGES = {
    "an update without a seed": (
        UPDATE, lambda f: resign(f, UPDATE, "north", "site-north", seed="", seed_for=""),
        MisplacedError, "hides nothing",
    ),
    "a seed for the aggregator": (
        UPDATE,
        lambda f: resign(
            f, UPDATE, "north", "site-north",
            seed_for=f.observe().state.charter.aggregator_encryption_key,
        ),
        MisplacedError, "not the helper",
    ),
    "a request signed by a site": (
        REQUEST, lambda f: resign(f, REQUEST, "north", "site-north"),
        SignatureError, "not signed by",
    ),
    "a request with a site twice": (
        REQUEST,
        lambda f: request_of_rogue(f, updates=counts(f, 1)[:1] * 2),
        MalformedError, "each once",
    ),
    "a request that shares with a stranger": (
        REQUEST,
        lambda f: request_of_rogue(f, shared=shared_with(f, "nobody")),
        MalformedError, "no update of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_breaks_the_rules_is_refused(waiting, name):
    key, make, error, says = MESSAGES[name]
    with pytest.raises(error, match=says):
        add(waiting, key, make(waiting))


@pytest.mark.parametrize(
    ("changes", "role", "says"),
    [
        ({"request_sha256": "0" * 64}, "helper", "answers a request that is not there"),
        ({"left_out": {"nobody": "no"}}, "helper", "was not asked for"),
        ({}, "aggregator", "not signed by"),
    ],
)
def test_an_answer_that_is_not_the_helpers_to_this_request_is_refused(waiting, changes, role, says):
    answer = MaskSum(
        key=ANSWER,
        study=message_at(waiting, REQUEST, SumRequest).study,
        created_at="2026-01-01T00:00:00Z",
        version=1,
        payload=None,
        request_sha256=waiting.observe().state.digests[REQUEST],
    )
    key = waiting.keyring(HELPER if role == "helper" else "coordinator").load(role)
    with pytest.raises((MisplacedError, SignatureError), match=says):
        add(waiting, ANSWER, key.sign(dataclasses.replace(answer, **changes)))


def test_nobody_is_helper_and_aggregator_at_once(waiting):
    coordinator = Coordinator(waiting.store, waiting.home("coordinator"), clock=waiting.clock)
    charter = coordinator.charter
    rules = dataclasses.replace(charter.secure_sums, helper_key=charter.aggregator_key)
    amended = dataclasses.replace(
        charter, secure_sums=rules, number=charter.number + 1,
        key=layout.charter(charter.number + 1),
        previous_sha256=coordinator.state.digests[charter.key],
    )  # fmt: skip
    key = waiting.keyring("coordinator").load("coordinator")
    with pytest.raises(MalformedError, match="key of the aggregator or coordinator"):
        add(waiting, amended.key, key.sign(amended))


def test_a_helper_that_is_away_for_a_week_is_waited_for(tmp_path):
    federation = asked(tmp_path)
    federation.now_s += 7 * 86_400
    assert "the helper's sum for version 1" in federation.step("aggregator").text
    federation.run()
    assert federation.observe().state.finished is not None
