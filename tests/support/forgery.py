"""Envelopes that no honest writer makes: any payload, with a valid signature."""

from __future__ import annotations

import base64
import json
from typing import Any

from fedfs.protocol.messages import Message, payload_type
from fedfs.trust.signing import SigningKey, key_id


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
