"""Files that an earlier version wrote must still load, and mean the same.

``study-1.0.json`` holds every message of a finished study of one site, as published by fedfs 0.1.0.
It is never regenerated: a change that cannot read it needs a new major version of the protocol.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfs.exchange.read import open_study
from fedfs.protocol import codec, messages
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.reader.status import summarize
from fedfs.store.memory import MemoryStore
from fedfs.tensors.canonical import weights_sha256
from fedfs.trust.signing import Envelope
from support.federation import INITIAL


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    content = json.loads((Path(__file__).parent / "study-1.0.json").read_text())
    for key, envelope in content.items():
        store.create(key, codec.dumps(envelope))
    return store


def test_a_study_of_protocol_1_0_is_accepted_in_full(store):
    state = open_study(store).state
    assert not state.rejected
    assert len(state.digests) == len(store.objects)
    assert sorted(state.models) == [0, 1]
    assert [(u.site, u.weight) for u in state.rounds[1].updates] == [("north", 1.0)]
    assert summarize(state).phase == "finished"


def contains(new, old) -> bool:
    """Whether a value has all that another one has: fields may have been added since."""
    if isinstance(old, dict):
        return all(name in new and contains(new[name], value) for name, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(contains, new, old))
    return new == old


def test_reading_and_writing_loses_nothing(store):
    for key, found in store.objects.items():
        payload = Envelope(found.data).payload
        parsed = parse_on_store(key)
        cls = messages.message_class(parsed.kind)
        written = messages.encode(messages.decode(cls, payload, key=parsed.text, study=None))
        assert contains(codec.loads(written), codec.loads(payload))


def test_the_hash_of_weights_has_not_changed(store):
    assert open_study(store).state.models[0].weights_sha256 == weights_sha256(INITIAL)
