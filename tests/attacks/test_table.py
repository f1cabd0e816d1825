"""What lies on the store is not believed: a table of forgeries, each ignored and named.

Whatever is done to the store by somebody without a rostered key, the federation ends with the same
models, or waits; it never accepts, crashes or mixes up.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import time
import tracemalloc

import numpy as np
import pytest

from fedfs.errors import (
    MalformedError,
    MisplacedError,
    RejectedError,
    SignatureError,
    StoreError,
    StudyError,
    UnsupportedVersionError,
)
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import open_study
from fedfs.protocol import codec, layout, messages
from fedfs.protocol.messages import FailureMessage, JoinRequest, RosterEntry, UpdateManifest
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.site import announcement
from fedfs.tensors.canonical import write_safetensors
from fedfs.trust.signing import Envelope, SigningKey
from fedfs.trust.verify import TrustedView
from support.federation import Federation, forge
from support.forgery import NoGate, add, envelope_of, resign
from support.forwarding_store import ForwardingStore


def until_version(federation: Federation, version: int) -> None:
    while federation.observe().state.newest < version:
        for name in ("aggregator", *federation.targets):
            federation.step(name)


UPDATE = layout.update("north", 0)


@pytest.fixture
def running(federation):
    until_version(federation, 1)
    return federation


def tampered(data: bytes) -> bytes:
    value = json.loads(data)
    payload = json.loads(base64.b64decode(value["payload"]))
    payload["n_training_cases"] = 10**6
    value["payload"] = base64.b64encode(codec.dumps(payload)).decode()
    return codec.dumps(value)


def unsigned(data: bytes) -> bytes:
    value = json.loads(data)
    value["signatures"] = []
    return codec.dumps(value)


FORGERIES = {
    "empty": (lambda f: b"", SignatureError, "not valid JSON (line 1, column 1)"),
    "not JSON": (lambda f: b"\x00\xff" * 50, SignatureError, "not UTF-8 (byte 1)"),
    "a JSON list": (lambda f: b"[]", SignatureError, "not a signed envelope"),
    "truncated": (
        lambda f: envelope_of(f, UPDATE)[:-20], SignatureError, "not valid JSON (line 1, column",
    ),
    "unsigned": (lambda f: unsigned(envelope_of(f, UPDATE)), SignatureError, "no signature"),
    "tampered": (lambda f: tampered(envelope_of(f, UPDATE)), SignatureError, "not signed by"),
    "deep": (lambda f: b"[" * 10**6, SignatureError, "deeper"),
    "duplicate keys": (
        lambda f: b'{"payload":"","payload":""}', SignatureError, "twice",
    ),
    "another site's key": (
        lambda f: resign(f, UPDATE, "south", "site-south"), SignatureError, "not signed by",
    ),
    "the aggregator's key": (
        lambda f: resign(f, UPDATE, "coordinator", "aggregator"), SignatureError, "not signed by",
    ),
    "replayed from another round": (
        lambda f: envelope_of(f, layout.update("north", 1)), MisplacedError,
        "was signed for the key",
    ),
    "another site's update": (
        lambda f: envelope_of(f, layout.update("south", 0)), SignatureError, "not signed by",
    ),
    "another kind of message": (
        lambda f: envelope_of(f, layout.fingerprint("north")), SignatureError, "not signed by",
    ),
    "another study": (
        lambda f: resign(f, UPDATE, "north", "site-north", study="other-" + "0" * 32),
        MisplacedError, "another study",
    ),
    "says another site inside": (
        lambda f: resign(f, UPDATE, "north", "site-north", site="south"), MisplacedError, "site",
    ),
    "says another version inside": (
        lambda f: resign(f, UPDATE, "north", "site-north", base_version=1), MisplacedError,
        "version",
    ),
    "trained from other weights": (
        lambda f: resign(f, UPDATE, "north", "site-north", base_weights_sha256="0" * 64),
        MisplacedError, "other weights",
    ),
    "names another site's payload": (
        lambda f: resign(
            f, UPDATE, "north", "site-north",
            payload=f.observe().state.updates["south", 0].payload,
        ),
        MisplacedError, "outside its own place",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_update_is_refused_with_its_own_reason(running, name):
    for _ in range(6):  # north has an update from version 1 to replay
        running.step("north")
    make, error, says = FORGERIES[name]
    data = make(running)
    with pytest.raises(error, match=re.escape(says)) as caught:
        add(running, UPDATE, data)
    assert caught.value.key == UPDATE
    assert_sentence(str(caught.value), UPDATE)
    forge(running.place, UPDATE, data)
    reason = running.observe().state.rejected[UPDATE]
    assert says in reason
    assert_clause(reason, UPDATE)


def assert_sentence(text: str, key: str) -> None:
    """Check that an error is one whole sentence that names a key once."""
    assert text.startswith(key) or text[0].isupper(), text
    assert text.endswith(".")
    assert not text.endswith("..")
    assert text.count(key) == 1, text
    assert not re.search(r"(^|[:;] |\bIt |\. )it ", text), text


def assert_clause(reason: str, key: str) -> None:
    """Check that a reason has a subject of its own, so that it reads well beside any key."""
    assert re.match(r"(the|a|an) [a-z]+", reason), reason
    assert not reason.endswith(".")
    assert key not in reason


def test_a_rejected_message_is_named_in_a_sentence(running, caplog):
    key, good = layout.join("north", 2), envelope_of(running, layout.join("north", 1))
    running.place.create(key, b"{")
    running.observe()
    assert f"{key} is not valid JSON (line 1, column 2). The message is ignored." in caplog.text
    payload = json.loads(Envelope(good).payload)
    del payload["site"]
    with pytest.raises(MalformedError) as caught:
        messages.decode(JoinRequest, codec.dumps(payload), key=key, study=None)
    assert str(caught.value) == "The field site is missing."
    assert str(caught.value.under(key)) == f"The field site in {key} is missing."
    assert caught.value.reason == "the field site is missing"


def test_a_newer_major_version_is_refused_with_advice(running):
    payload = json.loads(Envelope(envelope_of(running, UPDATE)).payload)
    payload["schema"] = "fedfs/2.0"
    with pytest.raises(UnsupportedVersionError, match="protocol version 2.0") as caught:
        messages.decode(UpdateManifest, codec.dumps(payload), key=UPDATE, study=None)
    assert "upgrade" in caught.value.hint


def test_a_newer_minor_version_is_read_and_its_fields_are_kept(running):
    payload = json.loads(Envelope(envelope_of(running, UPDATE)).payload)
    payload.update(schema="fedfs/1.9", surprise=[1])
    message = messages.decode(UpdateManifest, codec.dumps(payload), key=UPDATE, study=None)
    assert message.extra == {"surprise": [1]}
    assert json.loads(messages.encode(message))["surprise"] == [1]


def test_garbage_anywhere_changes_nothing(tmp_path):
    plain = Federation(tmp_path / "plain").start()
    plain.run()
    federation = Federation(tmp_path / "attacked").start()
    until_version(federation, 1)
    for key in (
        "aggregator/models/00077/manifest.json",
        "aggregator/rounds/00003.json",
        "aggregator/plan-0002.json",
        "sites/ghost/fingerprint-0001.json",
        "sites/ghost/updates/00001/manifest.json",
        "federation/charter-0009.json",
        "sites/east/updates/00099/manifest.json",
        "sites/east/status/99999999.json",
        "thumbs.db",
        "sites/readme.txt",
        "aggregator/models/00000/model-" + "0" * 64 + ".safetensors",
    ):
        federation.place.create(key, b"garbage")
        if key != "aggregator/plan-0002.json" and not key.startswith("federation/"):
            federation.store.create(key, b"garbage")  # what is a track's has no place here
    with pytest.raises(Exception, match="rounds/00003.json"):
        federation.run(seed=1)  # the aggregator's next key is taken: it says so
    del federation.place.objects["aggregator/rounds/00003.json"]
    federation.processes.clear()
    federation.run(seed=2)
    models = [
        {k for k in f.place.objects if "/model-" in k and "0" * 64 not in k}
        for f in (plain, federation)
    ]
    assert models[0] == models[1]


def test_a_site_that_is_not_on_the_roster_is_ignored(running):
    rogue = Publisher(
        running.place,
        SigningKey.generate(),
        running.charter.study,
        clock=running.clock,
        track=running.place.track,
        gate=NoGate(),
    )
    rogue.publish(
        FailureMessage(
            key=layout.failure("ghost", 0, 1),
            site="ghost",
            version=0,
            step="train",
            kind="x",
            message="y",
        )
    )
    state = running.observe().state
    assert not state.failures
    assert "not on the roster" in state.rejected[layout.failure("ghost", 0, 1)]


def payload_attack(federation: Federation, tensors=None, data: bytes | None = None, **changes):
    """North publishes, with its own valid key, an update from version 1 with a bad payload."""
    state = federation.observe().state
    path = federation.folder / "bad.safetensors"
    if data is None:
        write_safetensors(path, tensors)
    else:
        path.write_bytes(data)
    publisher = federation.publisher("site-north", "north")
    ref = publisher.payload(path, lambda sha: layout.update_payload("north", 1, sha))
    good = state.updates["north", 0]
    fields = {
        "site": "north", "base_version": 1, "base_weights_sha256": state.models[1].weights_sha256,
        "payload": ref, "encoding": "fp32", "n_training_cases": good.n_training_cases,
        "n_epochs": 1, "n_iterations": 5, "n_planned_iterations": 5, "metrics": {}, "seconds": {},
    }  # fmt: skip
    publisher.publish(
        UpdateManifest(key=layout.update("north", 1), **{**fields, **changes}),
    )
    return ref


GOOD_SHAPES = {"a.weight": (2, 3), "b.bias": (4,)}


def zeros(**shapes):
    return {
        name: np.zeros(shape, dtype=np.float32)
        for name, shape in {**GOOD_SHAPES, **shapes}.items()
        if shape is not None
    }


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(40)


def many_tensors(number: int) -> bytes:
    """The beginning of a header that names so many; a reader must not read on."""
    entry = b'"t%07d":{"dtype":"F32","shape":[],"data_offsets":[0,0]},'
    size = number * len(entry % 0)
    return size.to_bytes(8, "little") + b"{" + b"".join(entry % i for i in range(1000))


def overlapping() -> bytes:
    place = b'{"dtype":"F32","shape":[6],"data_offsets":[0,24]}'
    return with_header(b'{"a.weight":' + place + b',"b.bias":' + place + b"}")


def beyond() -> bytes:
    entries = (
        b'{"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"b.bias":{"dtype":"F32","shape":[4],"data_offsets":[24,99999999999]}}'
    )
    return with_header(entries)


BAD_PAYLOADS = {
    "NaN": ({"tensors": {**zeros(), "b.bias": np.full(4, np.nan, np.float32)}}, "finite"),
    "infinite": ({"tensors": {**zeros(), "b.bias": np.full(4, np.inf, np.float32)}}, "finite"),
    "wrong shape": ({"tensors": zeros(**{"b.bias": (5,)})}, "b.bias"),
    "a tensor missing": ({"tensors": zeros(**{"b.bias": None})}, "b.bias"),
    "a tensor too many": ({"tensors": zeros(**{"c": (1,)})}, "c"),
    "wrong type": ({"tensors": {**zeros(), "b.bias": np.zeros(4, np.float64)}}, "b.bias"),
    "not safetensors": ({"data": b"x" * 200}, ""),
    "a header of 100 GB": ({"data": (10**11).to_bytes(8, "little") + b"{}" * 50}, "header"),
    "a scaled update": (
        {"tensors": {n: np.full(shape, 1e6, np.float32) for n, shape in GOOD_SHAPES.items()}},
        "times as far as the median",
    ),
    "ten million tensors": ({"data": many_tensors(10**7)}, "header"),
    "a header that ends nowhere": ({"data": (1000).to_bytes(8, "little") + b'{"a":'}, "header"),
    "two tensors in one place": ({"data": overlapping()}, ""),
    "offsets beyond the file": ({"data": beyond()}, ""),
    "duplicate names": ({"data": with_header(b'{"a":{},"a":{}}')}, "twice"),
    "deep JSON": ({"data": with_header(b"[" * 5000)}, "deeper"),
    "bad UTF-8": ({"data": with_header(b'{"\xff\xfe":1}')}, "UTF-8"),
    "a number without end": ({"data": with_header(b'{"a":' + b"9" * 9999 + b"}")}, ""),
    "claims too many cases": ({"tensors": zeros(), "n_training_cases": 10**9}, "training cases"),
    "claims no cases": ({"tensors": zeros(), "n_training_cases": 0}, "training cases"),
    "no iterations": ({"tensors": zeros(), "n_iterations": 0}, "no iteration"),
}


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_a_bad_payload_of_a_rostered_site_is_left_out_and_named(running, name):
    arguments, says = BAD_PAYLOADS[name]
    payload_attack(running, **arguments)
    until_version(running, 2)
    record = running.observe().state.rounds[2]
    assert [update.site for update in record.updates] == ["east", "south"]
    assert [(e.site, e.key) for e in record.excluded] == [("north", layout.update("north", 1))]
    assert says in record.excluded[0].reason
    assert_clause(record.excluded[0].reason, record.excluded[0].key)


@pytest.mark.parametrize("damage", ["truncate", "flip", "grow"])
def test_a_payload_damaged_on_the_store_is_left_out_and_named(running, damage):
    ref = payload_attack(running, tensors=zeros())
    data = running.place.objects[ref.key].data
    damaged = {
        "truncate": data[:-1],
        "flip": data[:-1] + bytes([data[-1] ^ 1]),
        "grow": data + b"0" * 10**6,
    }
    forge(running.place, ref.key, damaged[damage])
    until_version(running, 2)
    record = running.observe().state.rounds[2]
    assert "signed for" in record.excluded[0].reason
    assert "north" not in {update.site for update in record.updates}


@pytest.mark.parametrize("name", ["ten million tensors", "a header of 100 GB", "deep JSON"])
def test_an_oversized_payload_costs_little(running, name):
    """Time and memory of refusing it, whatever it claims."""
    arguments, _ = BAD_PAYLOADS[name]
    payload_attack(running, **arguments)
    tracemalloc.start()
    began_s = time.process_time()
    try:
        until_version(running, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert time.process_time() - began_s < 20


class LyingStore(ForwardingStore):
    """Says other sizes and times than there are, and returns more than was asked for."""

    def list(self, prefix, *, after=""):
        for i, entry in enumerate(self.inner.list(prefix, after=after)):
            size = (0, 1, 10**15, -5)[i % 4]
            yield dataclasses.replace(entry, size=size, modified_s=float("nan"))


def test_a_store_that_lies_about_sizes_and_times_changes_nothing(tmp_path):
    plain = Federation(tmp_path / "plain").start()
    plain.run()
    lied_to = Federation(tmp_path / "lied-to").start()
    store = LyingStore(lied_to.store)
    for name in lied_to.targets:
        lied_to.processes[name] = lied_to.make_site(name, store)
    lied_to.processes["aggregator"] = lied_to.make_aggregator(store)
    lied_to.run()
    models = [{k for k in f.place.objects if "/model-" in k} for f in (plain, lied_to)]
    assert models[0] == models[1]


def test_versions_that_are_taken_away_are_noticed_by_whoever_saw_them(running):
    """Deleting the newest version sets a stranger back, not a host that takes part."""
    until_version(running, 2)
    observer = running.observe()
    for key in [k for k in running.place.objects if "/00002" in k and k.startswith("aggregator/")]:
        del running.place.objects[key]
    assert observer.refresh(everything=True).newest == 2
    state, keyring = running.observe().state, running.keyring("north")
    (track,) = running.tracks
    assert state.newest == 1
    keyring.memory.note_version("site-north", track, 2, "a" * 64)
    with pytest.raises(MisplacedError, match="shows version 1, but this host has seen version 2"):
        keyring.memory.note_version("site-north", track, 1, state.models[1].weights_sha256)
    with pytest.raises(MisplacedError):
        keyring.memory.note_version("site-north", track, 2, "b" * 64)
    keyring.memory.note_version("site-north", track, 2, "a" * 64)
    keyring.memory.note_version(
        "aggregator", track, 1, "a" * 64
    )  # another role's store may lag behind


def test_an_update_of_another_federation_is_refused(running, tmp_path):
    other = Federation(tmp_path / "other").start()
    until_version(other, 1)
    data = envelope_of(other, UPDATE)
    with pytest.raises(SignatureError, match="not signed by"):
        add(running, UPDATE, data)


def test_of_a_removed_site_nothing_later_is_accepted(running):
    coordinator = Coordinator(running.store, running.home("coordinator"), clock=running.clock)
    set_state(coordinator, ["north"], "removed")
    payload_attack(running, tensors=zeros())
    state = running.observe().state
    assert "which is removed" in state.rejected[layout.update("north", 1)]
    for name in ("east", "south", "aggregator", "aggregator"):
        running.run_process(name)
    assert {u.site for u in running.observe().state.rounds[2].updates} == {"east", "south"}


def test_a_charter_that_another_key_signed_is_refused(running):
    charter = running.observe().state.charter.whole()
    impostor = SigningKey.generate()
    forged = dataclasses.replace(
        charter,
        number=3,
        key=layout.charter(3),
        coordinator_key=impostor.public,
        previous_sha256=running.observe().state.digests[charter.key],
        roster=(*charter.roster, RosterEntry(site="rogue", public_key=impostor.public)),
    )
    running.place.create(layout.charter(3), impostor.sign(forged))
    state = running.observe().state
    assert state.charter.number == 2
    assert "not signed by" in state.rejected[layout.charter(3)]


def test_a_replaced_first_charter_is_another_study(running):
    """The study's id holds a hash of the coordinator's key: it cannot be impersonated."""
    charter = running.observe().state.charters[1].whole()
    impostor = SigningKey.generate()
    forged = dataclasses.replace(charter, coordinator_key=impostor.public)
    forge(running.place, layout.charter(1), impostor.sign(forged))
    with pytest.raises(RejectedError, match="another study"):
        open_study(running.store)
    with pytest.raises(MisplacedError):
        TrustedView(impostor.sign(forged), study=charter.study)


def test_a_rolled_back_charter_is_noticed_by_whoever_saw_the_newer(running):
    state, keyring = running.observe().state, running.keyring("north")
    keyring.memory.note_charter(2, state.digests[layout.charter(2)])
    keyring.memory.note_charter(2, state.digests[layout.charter(2)])
    with pytest.raises(MisplacedError, match="shows charter 1, but this host has seen charter 2"):
        keyring.memory.note_charter(1, state.digests[layout.charter(1)])
    with pytest.raises(MisplacedError):
        keyring.memory.note_charter(2, "0" * 64)


def test_a_second_fingerprint_or_plan_does_not_exist(running):
    data = resign(
        running,
        layout.fingerprint("north"),
        "north",
        "site-north",
        key=layout.fingerprint("north", 2),
    )
    running.place.create(layout.fingerprint("north", 2), data)
    assert "there is only one" in running.observe().state.rejected[layout.fingerprint("north", 2)]


def test_foreign_bytes_under_a_payload_key_stop_the_writer_and_are_named(running):
    """Its key holds the hash of what belongs there, so the writer can tell."""
    plain = Federation(running.folder / "plain").start()
    until_version(plain, 2)
    key = next(k for k in plain.place.objects if "models/00002/model-" in k)
    running.place.create(key, b"foreign")
    with pytest.raises(StoreError, match="holds other bytes than its name says"):
        until_version(running, 2)


def test_an_update_in_another_encoding_than_the_charters_is_refused(running):
    data = resign(running, UPDATE, "north", "site-north", encoding="topk")
    with pytest.raises(MisplacedError, match="encoding 'topk'"):
        add(running, UPDATE, data)


def test_an_aggregator_status_cannot_speak_for_a_site(running):
    key = layout.status(None, 9999)
    text = next(k for k in running.place.objects if k.startswith("aggregator/status/"))
    data = resign(running, text, "coordinator", "aggregator", key=key, site="north")
    with pytest.raises(MisplacedError, match="aggregator"):
        add(running, key, data)


def test_an_object_larger_than_any_message_is_not_read(running, monkeypatch):
    monkeypatch.setattr("fedfs.exchange.observer.MAX_ENVELOPE_BYTES", 10_000)
    running.place.create(layout.failure("north", 0, 1), b"x" * 20_000)
    state = running.observe().state
    assert "larger than any message" in state.rejected[layout.failure("north", 0, 1)]


def test_a_fingerprint_that_cannot_be_used_is_an_error_that_names_the_site(tmp_path, monkeypatch):
    monkeypatch.setattr(
        announcement, "validate_fingerprint", lambda _: None
    )  # a rogue does not look
    federation = Federation(tmp_path).start()
    learner = federation.learners["north"]
    good = learner.fingerprint(None)
    channel = dataclasses.replace(good.channels[0], m2=-1.0)
    learner.fingerprint = lambda report: dataclasses.replace(good, channels=(channel,))
    for site in federation.targets:
        federation.step(site)
    with pytest.raises(StudyError, match="fingerprint of north"):
        federation.step("aggregator")


def test_a_store_without_a_study_says_so(tmp_path):
    federation = Federation(tmp_path)
    federation.place.objects.clear()
    with pytest.raises(StudyError, match="holds no federation"):
        open_study(federation.store)


def test_a_message_of_a_type_that_does_not_belong_under_its_key_is_refused():
    with pytest.raises(MisplacedError, match="where a 'update' message belongs"):
        messages.decode(
            UpdateManifest,
            codec.dumps({"schema": "fedfs/1.0", "type": "plan"}),
            key=UPDATE,
            study=None,
        )
    with pytest.raises(MalformedError, match="not a fedfs schema"):
        messages.decode(UpdateManifest, codec.dumps({"schema": 3}), key=UPDATE, study=None)
