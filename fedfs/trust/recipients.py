"""Recipients of an encrypted study (``encryption = "age"``), and the keys that decrypt it here.

Rules:
 * Models and plans are sealed for *readers*: a key pair of the study, whose private half each
   charter carries sealed for coordinator, aggregator and every site on the roster. Whoever joins
   gets the halves of all earlier pairs; when a site is removed or a party's key replaced, a new
   pair follows, which that site or that key does not get.
 * Updates, fingerprints, plans of single sites and the aggregator's memory are sealed for the
   aggregator (a site's own updates and plan for the site too).
 * Sealing hides, and proves nothing: what is unsealed is verified as if it had come in the open.
"""

import base64
import binascii
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedfs.errors import KeyFileError, SealedError
from fedfs.protocol.messages import Charter, ReadKey
from fedfs.trust import sealing
from fedfs.trust.keyring import Keyring
from fedfs.trust.sealing import Identity

AGE = "age"
"""The one encryption that a charter may ask for."""


class Vault:
    """Private keys of a host for one study, as far as its charters have been read.

    Args:
        home: this host's fedfs home; None for a host that has no keys.
    """

    def __init__(self, home: Path | None = None) -> None:
        self._home = home
        self._own: list[Identity] = []
        self._files: list[str] = []
        self._readers: dict[str, Identity] = {}

    def learn(self, charter: Charter) -> None:
        """Take the keys for this host from a charter that is accepted.

        Raises:
            KeyFileError: a key file of this host is unreadable.
        """
        if self._home is None:
            return
        keyring = Keyring(self._home, charter.study)
        files = keyring.identity_files()
        if files != self._files:  # another one may have been made since the last charter
            self._own, self._files = keyring.all_identities(), files
        for pair in charter.read_keys:
            if pair.recipient not in self._readers:
                found = open_read_key(pair, self._own)
                if found is not None:
                    self._readers[pair.recipient] = found

    @property
    def identities(self) -> list[Identity]:
        """Keys of this host, and of readers."""
        return [*self._own, *reversed(self._readers.values())]

    def unseal(self, data: bytes) -> bytes:
        """Decrypt a message or a part of it.

        Raises:
            SealedError: this host has no key for it.
        """
        if not self.identities:
            raise SealedError("is encrypted, and this host holds no key for it")
        return sealing.unseal(data, self.identities)


def open_read_key(pair: ReadKey, identities: Sequence[Identity]) -> Identity | None:
    """Return the private half of a pair, if one of these keys opens it."""
    for sealed in pair.sealed_for.values():
        with contextlib.suppress(SealedError, KeyFileError, binascii.Error, ValueError):
            secret = sealing.unseal(base64.b64decode(sealed, validate=True), identities)
            found = Identity.from_text(secret)
            if found.recipient == pair.recipient:
                return found
    return None


def make_read_key(number: int, holders: Mapping[str, str]) -> ReadKey:
    """Return a new pair, sealed for each holder (name -> public key of age)."""
    return seal_read_key(number, Identity.generate(), holders)


def seal_read_key(number: int, pair: Identity, holders: Mapping[str, str]) -> ReadKey:
    """Return a pair, sealed for each holder anew."""
    secret = pair.to_text()
    sealed_for = {
        name: base64.b64encode(sealing.seal(secret, [key])).decode()
        for name, key in sorted(holders.items())
        if key
    }
    return ReadKey(number=number, recipient=pair.recipient, sealed_for=sealed_for)


def holders(charter: Charter, sites: Iterable[str]) -> dict[str, str]:
    """Return name -> public key of age of all who may read models and plans."""
    wanted = set(sites)
    return {
        "coordinator": charter.coordinator_encryption_key,
        "aggregator": charter.aggregator_encryption_key,
        **{f"site-{e.site}": e.encryption_key for e in charter.roster if e.site in wanted},
    }


def for_readers(charter: Charter) -> tuple[str, ...]:
    """Return the recipients of models and plans; empty where nothing is encrypted."""
    return (charter.read_keys[-1].recipient,) if charter.encryption == AGE else ()


def for_aggregator(charter: Charter, *, and_site: str = "") -> tuple[str, ...]:
    """Return the recipients of what the aggregator reads; empty where nothing is encrypted.

    Args:
        charter: in force.
        and_site: site that reads it too, as its own update or plan; "" for none.
    """
    if charter.encryption != AGE:
        return ()
    entry = charter.entry(and_site)
    others = [entry.encryption_key] if entry is not None and entry.encryption_key else []
    return (charter.aggregator_encryption_key, *others)
