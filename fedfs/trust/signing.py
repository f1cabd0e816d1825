"""Ed25519 keys and DSSE envelopes.

An envelope is the JSON form of the Dead Simple Signing Envelope (DSSE 1.0,
https://github.com/secure-systems-lab/dsse): base64 payload, payload type, signatures. The
signature covers the pre-authentication encoding of type and payload bytes, so nothing is parsed
before it is verified, and a signature for one type of message is worthless for another.

Ed25519 signatures are deterministic: signing the same message twice gives the same bytes, which is
what makes publishing idempotent.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import subprocess
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedfs.errors import KeyFileError, MalformedError, SignatureError
from fedfs.protocol import codec, messages
from fedfs.protocol.messages import Message

UNLOCK_HINT = "give it in the variable FEDFS_PASSPHRASE, or a file in FEDFS_PASSPHRASE_FILE"

_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MAX_SIGNATURES = 4
_SIGNER_S = 60.0


class SigningKey:
    """A private Ed25519 key on this host."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(
        cls, data: bytes, passphrase: bytes | None = None, *, name: str = "The key"
    ) -> SigningKey:
        """Read a PKCS #8 key; ``name`` is what errors call it.

        Raises:
            KeyFileError: it is not one, or not Ed25519, or the passphrase does not open it.
        """
        if b"BEGIN ENCRYPTED PRIVATE KEY" not in data:
            passphrase = None
        elif passphrase is None:
            raise KeyFileError(f"{name} has a passphrase.", hint=UNLOCK_HINT)
        try:
            key = serialization.load_pem_private_key(data, password=passphrase)
        except (ValueError, TypeError) as error:
            why = (
                "it is not a private key in PEM form" if passphrase is None else "wrong passphrase"
            )
            raise KeyFileError(
                f"{name} cannot be read: {why}.",
                hint="give the right passphrase, or restore the file from a backup",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(
                f"{name} is not an Ed25519 key.",
                hint="restore the file from a backup, or replace the key: fedfs key rotate",
            )
        return cls(key)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the key in PKCS #8 PEM form, encrypted if there is a passphrase."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(*form, encryption)

    @property
    def public(self) -> str:
        """The public key as it appears in messages: base64 of its 32 bytes."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the signature of bytes."""
        return self._key.sign(data)

    def endorse(self, study: str, site: str, public_key: str) -> str:
        """Return base64 by which this key of a site names the one that follows it."""
        return base64.b64encode(self.sign_bytes(_endorsement(study, site, public_key))).decode()

    def sign(self, message: Message, seal: Callable[[bytes], bytes] | None = None) -> bytes:
        """Return the envelope of ``message``, ready to be published.

        Args:
            message: the message.
            seal: encrypts its hidden fields; None to leave all in the open.
        """
        payload = messages.encode(message, seal)
        kind = messages.payload_type(type(message))
        signature = base64.b64encode(self.sign_bytes(_pre_authentication_encoding(kind, payload)))
        signed = {"keyid": key_id(self.public), "sig": signature.decode()}
        body = base64.b64encode(payload).decode()
        return codec.dumps({"payloadType": kind, "payload": body, "signatures": [signed]})


class ExternalKey(SigningKey):
    """A key that another program holds: a token, a card, a service.

    The program gets the bytes to sign on its standard input and writes the Ed25519 signature, 64
    raw bytes or their base64, to its standard output.

    Args:
        public_key: base64, as in messages.
        command: program and arguments.
    """

    def __init__(self, public_key: str, command: Sequence[str]) -> None:
        self._public = public_key
        self._verifier = _public_key(public_key)
        self._command = tuple(command)

    @property
    def public(self) -> str:
        """The public key in base64."""
        return self._public

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the signature that the program makes.

        Raises:
            KeyFileError: it cannot be run, fails, or signs with another key.
        """
        what = f"The external signer {self._command[0]}"
        try:
            done = subprocess.run(
                self._command, input=data, capture_output=True, check=True, timeout=_SIGNER_S
            )
        except subprocess.CalledProcessError as error:
            output = error.stderr.decode(errors="replace").strip()[-300:]
            raise KeyFileError(
                f"{what} failed with {error.returncode}: {output}.",
                hint="run the program by hand to see why",
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KeyFileError(
                f"{what} cannot be run: {error}.",
                hint="it was given with fedfs key create --external: is it installed?",
            ) from error
        signature = done.stdout
        if len(signature) != _SIGNATURE_BYTES:
            with contextlib.suppress(binascii.Error, ValueError):
                signature = base64.b64decode(signature.strip(), validate=True)
        try:
            self._verifier.verify(signature, data)
        except InvalidSignature as error:
            raise KeyFileError(
                f"{what} does not sign with the key {self._public}.",
                hint="is the token with this key in its place?",
            ) from error
        return signature

    def to_pem(self, passphrase: bytes | None = None) -> bytes:  # noqa: ARG002  of the base class
        """An external key cannot be written.

        Raises:
            KeyFileError: always.
        """
        raise KeyFileError("An external key never leaves its program.")


class Envelope:
    """A parsed envelope; nothing in it is believed before :meth:`verify`.

    Raises:
        SignatureError: the object is not a signed envelope.
    """

    def __init__(self, data: bytes) -> None:
        try:
            value = codec.loads(data)
        except MalformedError as error:
            raise SignatureError(error.fault, about=error.about) from error
        if not isinstance(value, dict):
            raise SignatureError("is not a signed envelope")
        payload, kind, signatures = map(value.get, ("payload", "payloadType", "signatures"))
        if not isinstance(payload, str) or not isinstance(kind, str):
            raise SignatureError("is not a signed envelope: the payload or its type is missing")
        if not isinstance(signatures, list) or not 0 < len(signatures) <= _MAX_SIGNATURES:
            raise SignatureError("carries no signature")
        self.payload = _from_base64(payload, "payload")
        self.sha256 = hashlib.sha256(self.payload).hexdigest()
        self.payload_type = kind
        self._signatures = [
            _from_base64(item["sig"], "signature")
            for item in signatures
            if isinstance(item, dict) and isinstance(item.get("sig"), str)
        ]

    def _is_signed_by(self, public_key: str, payload_type: str) -> bool:
        """Return whether ``public_key`` signed the payload as ``payload_type``.

        Raises:
            SignatureError: the public key is not one.
        """
        signed = _pre_authentication_encoding(payload_type, self.payload)
        key = _public_key(public_key)
        if self.payload_type == payload_type:
            for signature in self._signatures:
                with contextlib.suppress(InvalidSignature):
                    key.verify(signature, signed)
                    return True
        return False

    def verify(self, public_key: str, payload_type: str) -> bytes:
        """Return the payload if ``public_key`` signed it as ``payload_type``.

        Raises:
            SignatureError: it did not.
        """
        self.signer([public_key], payload_type)
        return self.payload

    def signer(self, public_keys: Sequence[str], payload_type: str) -> str:
        """Return the first of several keys that signed the payload as ``payload_type``.

        Raises:
            SignatureError: none of them did; the first one is named.
        """
        for public_key in public_keys:
            if self._is_signed_by(public_key, payload_type):
                return public_key
        raise SignatureError(f"is not signed by the expected key {key_id(public_keys[0])[:16]}")


def is_endorsed(endorsement: str, by: str, study: str, site: str, public_key: str) -> bool:
    """Return whether the key ``by`` has named ``public_key`` as the one that follows it."""
    try:
        signature = _from_base64(endorsement, "endorsement")
        _public_key(by).verify(signature, _endorsement(study, site, public_key))
    except (InvalidSignature, SignatureError):
        return False
    return True


def key_id(public_key: str) -> str:
    """Return the hex SHA-256 of a public key given in base64."""
    return hashlib.sha256(_from_base64(public_key, "public key")).hexdigest()


def key_fingerprint(public_key: str) -> str:
    """Return a key fingerprint, for two people to compare: 128 bits in eight groups of four."""
    digits = key_id(public_key)[:32]
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def study_id(name: str, nonce: str, coordinator_key: str) -> str:
    """Return the id of a study: its name, and a hash that only this coordinator key can have."""
    digest = hashlib.sha256(f"fedfs-study\n{name}\n{nonce}\n{coordinator_key}".encode())
    return f"{name}-{digest.hexdigest()[:32]}"


def _public_key(text: str) -> Ed25519PublicKey:
    raw = _from_base64(text, "public key")
    if len(raw) != _KEY_BYTES:
        raise SignatureError("names a public key that is not one of Ed25519")
    return Ed25519PublicKey.from_public_bytes(raw)


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"holds a {what} that is not base64") from error


def _endorsement(study: str, site: str, public_key: str) -> bytes:
    return f"fedfs-next-key\n{study}\n{site}\n{public_key}\n".encode()


def _pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
