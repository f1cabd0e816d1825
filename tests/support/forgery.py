"""Envelopes that no honest writer makes: any payload, with a valid signature."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any, TypeVar

from fedfs.exchange.read import open_study
from fedfs.protocol import layout, messages
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import Message, payload_type
from fedfs.trust.signing import Envelope, SigningKey, key_id
from support.federation import Federation

M = TypeVar("M", bound=Message)


class NoGate:
    """The gate of a writer that has no policy, or heeds none."""

    def admit(self, message: Any, *, is_sealed: bool) -> Any:
        return message

    def admit_payload(self, key: str, *, is_sealed: bool) -> None:
        pass


def sign_payload(key: SigningKey, cls: type[Message], payload: bytes) -> bytes:
    """Return an envelope of arbitrary bytes, as ``key`` signs a message of ``cls``."""
    kind = payload_type(cls)
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    signature = base64.b64encode(key.sign_bytes(signed)).decode()
    body = base64.b64encode(payload).decode()
    signatures = [{"keyid": key_id(key.public), "sig": signature}]
    envelope = {"payloadType": kind, "payload": body, "signatures": signatures}
    return json.dumps(envelope).encode()


def sign_value(key: SigningKey, cls: type[Message], value: Any) -> bytes:
    """Return an envelope of any JSON value, escapes of lone surrogates included."""
    return sign_payload(key, cls, json.dumps(value).encode())


def envelope_of(federation: Federation, key: str) -> bytes:
    """Return the bytes under a key."""
    data: bytes = federation.place.objects[key].data
    return data


def message_at(federation: Federation, key: str, cls: type[M]) -> M:
    """Return the message under a key, as it was signed."""
    return messages.decode(cls, Envelope(envelope_of(federation, key)).payload, key=key, study=None)


def resign(federation: Federation, at: str, host: str, role: str, **changes: Any) -> bytes:
    """Sign a changed copy of the message that lies ``at`` a key with the key of ``role``."""
    cls = messages.message_class(_parsed(at).kind)
    assert cls is not None
    changed = dataclasses.replace(message_at(federation, at, cls), **changes)
    return federation.keyring(host).load(role).sign(changed)


def add(federation: Federation, key: str, data: bytes) -> Message:
    """Feed one object to a view that has seen everything else."""
    view = open_study(federation.store)._view
    view.state.digests.pop(key, None)
    return view.add(_parsed(key), data)


def _parsed(key: str) -> Key:
    parsed = layout.parse(key)
    assert parsed is not None
    return parsed
