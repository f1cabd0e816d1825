"""Encryption with age (https://age-encryption.org/v1) for named recipients.

Keys are X25519: a recipient ``age1...`` is public and travels in messages, an identity
``AGE-SECRET-KEY-1...`` stays on its host. Signing is not age's business: what is decrypted is
verified like anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyrage
from pyrage import passphrase as age_passphrase
from pyrage import x25519

from fedfs.errors import KeyFileError, SealedError
from fedfs.trust.signing import UNLOCK_HINT

MAGIC = b"age-encryption.org/v1\n"
"""First line of everything that age encrypted."""

_MAX_IDENTITY_BYTES = 16_384


class Identity:
    """A private key to which others encrypt."""

    def __init__(self, key: x25519.Identity) -> None:
        self.key = key

    @classmethod
    def generate(cls) -> Identity:
        """Make a new one from the operating system's randomness."""
        return cls(x25519.Identity.generate())

    @classmethod
    def from_text(
        cls, data: bytes, passphrase: bytes | None = None, *, name: str = "The identity"
    ) -> Identity:
        """Read an identity file as age-keygen writes it, or one that a passphrase encrypts.

        Args:
            data: content of the file.
            passphrase: opens it, if it is encrypted.
            name: what errors call it.

        Raises:
            KeyFileError: it is not one, or the passphrase does not open it.
        """
        if data.startswith(MAGIC):
            if passphrase is None:
                raise KeyFileError(f"{name} has a passphrase.", hint=UNLOCK_HINT)
            try:
                data = age_passphrase.decrypt(data, passphrase.decode())
            except pyrage.DecryptError as error:
                raise KeyFileError(
                    f"{name} cannot be read: wrong passphrase.",
                    hint="give the right one in FEDFS_PASSPHRASE or FEDFS_PASSPHRASE_FILE",
                ) from error
        lines = data[:_MAX_IDENTITY_BYTES].decode("ascii", errors="replace").splitlines()
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        try:
            (text,) = keys
            return cls(x25519.Identity.from_str(text))
        except (ValueError, pyrage.IdentityError) as error:
            raise KeyFileError(
                f"{name} is not an identity of age.",
                hint="restore the file from a backup; it begins with AGE-SECRET-KEY-1",
            ) from error

    def to_text(self, passphrase: bytes | None = None) -> bytes:
        """Return the identity as a file, encrypted if there is a passphrase."""
        text = f"# public key: {self.recipient}\n{self.key}\n".encode()
        return bytes(age_passphrase.encrypt(text, passphrase.decode())) if passphrase else text

    @property
    def recipient(self) -> str:
        """The public key, ``age1...``."""
        return str(self.key.to_public())


def parse_recipient(text: str) -> x25519.Recipient:
    """Return a public key, ``age1...``.

    Raises:
        KeyFileError: it is not one.
    """
    try:
        return x25519.Recipient.from_str(text)
    except (pyrage.RecipientError, ValueError) as error:
        raise KeyFileError(
            f"{text!r} is not a public key of age (age1...).",
            hint="take it from fedfs key export-public on the host that has the key",
        ) from error


def seal(data: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt to everybody named; each can read it alone."""
    return bytes(pyrage.encrypt(data, [parse_recipient(text) for text in recipients]))


def unseal(data: bytes, identities: Sequence[Identity]) -> bytes:
    """Decrypt.

    Raises:
        SealedError: it is not meant for any of these keys, or it was changed.
    """
    try:
        return bytes(pyrage.decrypt(data, [identity.key for identity in identities]))
    except (pyrage.DecryptError, ValueError) as error:
        raise SealedError(f"cannot be decrypted on this host: {error}") from error


def seal_file(source: BinaryIO, target: BinaryIO, recipients: Sequence[str]) -> None:
    """Encrypt a file in bounded memory."""
    pyrage.encrypt_io(source, target, [parse_recipient(text) for text in recipients])


def unseal_file(source: BinaryIO, target: BinaryIO, identities: Sequence[Identity]) -> None:
    """Decrypt a file in bounded memory; what was written before an error is worthless.

    Raises:
        SealedError: it is not meant for any of these keys, or it was changed.
    """
    try:
        pyrage.decrypt_io(source, target, [identity.key for identity in identities])
    except (pyrage.DecryptError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not age's
            raise
        raise SealedError(f"cannot be decrypted on this host: {error}") from error


def load_identity(path: Path) -> Identity:
    """Read an identity file of age's.

    Raises:
        KeyFileError: it cannot be read or is not one.
    """
    try:
        return Identity.from_text(path.read_bytes(), name=str(path))
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read: {error.strerror}.",
            hint="check its owner and permissions, or restore it from a backup",
        ) from error
