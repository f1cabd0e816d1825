"""Every parser of what comes from the store or a stick, fed with damaged and forged input.

Valid input is mutated: bits, pieces, tokens that parsers like to trip over; in JSON also values and
their types, with a valid signature, as a rogue member of the study could send it. Whatever happens,
the answer is acceptance of what is as it must be or an error of this project: never a crash, never
something else accepted.

The answer comes soon, too: what is read before a signature is verified is read in linear time.

``FEDFS_FUZZ_EXAMPLES=20000 pytest tests/attacks/test_fuzz.py`` goes on for longer, as does
``FEDFS_SLOW_TESTS=1``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfs.errors import FedfsError, MalformedError, RejectedError, SealedError, UserError
from fedfs.exchange import versions
from fedfs.exchange.payloads import check_values, update_layout
from fedfs.exchange.read import open_study
from fedfs.protocol import decide, layout, messages, participation
from fedfs.roles.aggregator import planning
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import import_bundle
from fedfs.roles.reader import log, privacy
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.status import summarize
from fedfs.store.memory import MemoryStore, StoredObject
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.trust import sealing
from fedfs.trust.sealing import Identity
from fedfs.trust.signing import Envelope
from support.courier import Courier
from support.federation import FakePlanner, Federation
from support.forgery import sign_value
from support.slow import SLOW

EXAMPLES = int(os.environ.get("FEDFS_FUZZ_EXAMPLES", "200" if SLOW else "25"))
MOST_PER_EXAMPLE = datetime.timedelta(seconds=20)
"""Machines are shared; what grows with the square of the longest tokens takes minutes."""
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=MOST_PER_EXAMPLE,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
    ],
)

TOKENS = [
    b"", b"\x00", b"\xff" * 8, b"{", b"}", b"[", b"]" * 40, b'"', b"\\", b"null", b"-1", b"1e999",
    b"NaN", b"9" * 30, b"\xc3\x28", "\u202e".encode(), b'"a":1,"a":2', b"../", b"\n", b"0" * 64,
    (2**63 - 1).to_bytes(8, "little"), (10**11).to_bytes(8, "little"), b"F32", b"BF16", b"I64",
    b'"' + b'\\"' * 100_000, b"[" * 100_000,
]  # fmt: skip


@st.composite
def mutated(draw, base: bytes) -> bytes:
    """A few changes to valid bytes."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "token", "cut", "double", "end", "any"]))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "token":
            data[at : at + draw(st.integers(0, 8))] = draw(st.sampled_from(TOKENS))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "end":
            del data[at:]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False),
    st.text(max_size=12), st.just(""), st.just([]), st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from(["../x", "north", "a" * 300, "\x00", "sites/north/", "0" * 64, "os.system"]),
    st.sampled_from(["\x1b[2J", "\ud800", "a\nb", "[/]", 1e308, -1e308, 1e99, 10**17, -1]),
).filter(lambda value: not isinstance(value, float) or np.isfinite(value))  # fmt: skip


@st.composite
def altered(draw, value):
    """A JSON value of which one or two things, at any depth, are others."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 2))):
        holder, place = None, None
        node = value
        while isinstance(node, dict | list) and node:
            places = sorted(node) if isinstance(node, dict) else range(len(node))
            holder, place = node, draw(st.sampled_from(list(places)[:40]))
            node = node[place]
            if draw(st.booleans()):
                break
        if holder is None:
            break
        if isinstance(holder, dict) and draw(st.integers(0, 5)) == 0:
            del holder[place]
        else:
            holder[place] = draw(odd_values)
    return value


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study, with all kinds of messages."""
    logging.getLogger("fedfs").setLevel(logging.CRITICAL)
    federation = Federation(tmp_path_factory.mktemp("fuzz"), rounds=2)
    federation.start().run()
    yield federation
    logging.getLogger("fedfs").setLevel(logging.NOTSET)


KINDS = ("charter", "join", "fingerprint", "plan", "round", "model", "update", "evaluation",
         "status", "finished")  # fmt: skip


def key_of(study: Federation, kind: str) -> str:
    keys = sorted(k for k in study.place.objects if layout.parse(k).kind == kind)
    return keys[-1] if kind != "charter" else layout.charter(2)


def seen_with(study: Federation, key: str, data: bytes):
    """Look at the study with something else under one key."""
    store = MemoryStore(clock=study.clock)
    store.objects = {
        **study.store.objects,
        study.place.track.on_store(key): StoredObject(data, 0.0),
    }
    observer = open_study(store)
    observer.refresh(everything=True)
    return observer


@pytest.mark.parametrize("kind", KINDS)
@fuzz
@given(data=st.data())
def test_a_damaged_envelope_is_refused_unless_it_says_the_same(study, kind, data):
    key = key_of(study, kind)
    good = study.place.objects[key].data
    bad = data.draw(mutated(good))
    state = seen_with(study, key, bad).state
    if key in state.digests:
        assert Envelope(bad).payload == Envelope(good).payload
    else:
        assert key in state.rejected or bad == b""


@pytest.mark.parametrize("kind", KINDS)
@fuzz
@given(data=st.data())
def test_a_rogue_members_message_is_refused_or_harmless(study, kind, data):
    """Signed by whoever may sign it; then everything is done with it that anybody does."""
    key = key_of(study, kind)
    cls = messages.message_class(kind)
    value = json.loads(Envelope(study.place.objects[key].data).payload)
    bad = data.draw(altered(value))
    site = layout.parse(key).site
    host, role = ("coordinator", kind == "charter") if site is None else (site, False)
    name = f"site-{site}" if site else "coordinator" if role else "aggregator"
    signer = study.keyring(host).load(name)
    observer = seen_with(study, key, sign_value(signer, cls, bad))
    state = observer.state
    for use in (
        lambda: summarize(state, observer.sizes),
        lambda: render(collect(state, observer.sizes), made_at="2027-01-15T08:00:00Z"),
        lambda: log.events(state),
        lambda: privacy.disclosures(state, "north", observer.sizes),
        lambda: decide.decide_aggregator(state, now_s=study.now_s),
        lambda: decide.decide_site(state, "north", prepared=True),
        lambda: planning.make_plan(tuple(sorted(state.fingerprints)), state, FakePlanner()),
        lambda: [versions.check_claims(update, state) for update in state.updates.values()],
        lambda: [versions.weigh([u], state.charter, 1) for u in state.updates.values()],
        lambda: participation.left_out(state, state.newest, (), {}),
    ):
        with contextlib.suppress(FedfsError):
            use()


@fuzz
@given(data=st.data())
def test_a_damaged_tensor_file_is_refused_or_holds_what_it_must(tmp_path, data):
    tensors = {"a.weight": np.ones((2, 3), np.float32), "b.bias": np.zeros(4, np.float32)}
    path = tmp_path / "t.safetensors"
    write_safetensors(path, tensors)
    expected = {name: ("F32", array.shape) for name, array in tensors.items()}
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    with contextlib.suppress(RejectedError), TensorFile(path) as file:
        file.check_layout(expected)
        assert all(np.isfinite(file.read(name)).all() for name in file.names)
        assert {name: file.shape(name) for name in file.names} == {
            name: array.shape for name, array in tensors.items()
        }


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8", "topk", "fixed", "randk"])
@fuzz
@given(data=st.data())
def test_a_damaged_update_decodes_to_finite_values_or_is_refused(tmp_path, name, data):
    encoding = encodings.by_name(name, {})
    base = {"a": np.linspace(-1, 1, 300).astype(np.float32).reshape(10, 30)}
    write_safetensors(tmp_path / "base", base)
    encoded = encoding.encode("a", base["a"] * 1.5, base["a"], None)
    parts = encodings.payload_layout(encoding, {"a": (10, 30)})
    path = tmp_path / "update"
    write_safetensors(path, encoded.payload, dtypes={key: kind for key, (kind, _) in parts.items()})
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    with (
        contextlib.suppress(RejectedError),
        TensorFile(tmp_path / "base") as before,
        TensorFile(path) as file,
    ):
        file.check_layout(update_layout(encoding, before, {"a": "a"}))
        assert np.isfinite(check_values(encoding, file, before, {"a": "a"}))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    courier = Courier(tmp_path_factory.mktemp("bundle"))
    courier.join()
    courier.others()
    courier.trip()
    courier.others()
    path, _ = courier.export("for", recipients=(), everything=True)
    return courier, path.read_bytes()


@fuzz
@given(data=st.data())
def test_a_damaged_bundle_is_refused_whole_or_is_as_it_was(bundle, tmp_path, data):
    courier, good = bundle
    path, target = tmp_path / "bundle", MemoryStore()
    bad = data.draw(mutated(good))
    path.write_bytes(bad)
    try:
        import_bundle(path, target, home=tmp_path / "home", on_progress=lambda _: None)
    except (RejectedError, UserError):
        assert not target.objects
    else:
        accepted = {key: item.data for key, item in target.objects.items()}
        known = {k: i.data for k, i in courier.federation.store.objects.items()}
        assert accepted.items() <= known.items()


@fuzz
@given(data=st.data())
def test_any_bytes_as_a_bundle_are_refused(tmp_path, data):
    (tmp_path / "bundle").write_bytes(data.draw(st.binary(max_size=400)))
    with pytest.raises(RejectedError), BundleReader(tmp_path / "bundle") as reader:
        reader.index()


IDENTITY = Identity.generate()
SEALED = sealing.seal(b"something", [IDENTITY.recipient])


@fuzz
@given(data=st.data())
def test_what_is_sealed_and_changed_does_not_open(data):
    bad = data.draw(mutated(SEALED))
    with contextlib.suppress(SealedError):
        assert sealing.unseal(bad, [IDENTITY]) == b"something"


@fuzz
@given(st.text(max_size=300))
def test_any_text_is_a_key_or_none(text):
    key = layout.parse(text)
    assert key is None or key.text == text
    with contextlib.suppress(MalformedError):
        assert layout.check_key(text) == text
        assert ".." not in text.split("/")
