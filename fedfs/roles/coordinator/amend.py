"""Amendments of a study's charter, signed by its coordinator.

Rules:
 * Each amendment is a whole charter with the next number, signed by the coordinator, and names the
   hash of the one before. What it changes takes effect at a version
   (:mod:`fedfs.trust.key_validity`).
 * An amendment needs nobody else to be there at the time.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import ObjectExistsError, StudyError
from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import open_tracks
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import ADMITTED, Charter, ReadKey
from fedfs.protocol.state import StudyState
from fedfs.store.base import Store
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import AGE, Vault, holders, make_read_key, open_read_key, seal_read_key

log = logging.getLogger(__name__)


class Coordinator:
    """Holder of the coordinator's key: amends the charter.

    Args:
        store: the study's store.
        home: this host's fedfs home; holds the coordinator's key.
        clock: POSIX seconds.

    Raises:
        StudyError: there is no study.
        KeyFileError: this host is not the coordinator's.
    """

    def __init__(self, store: Store, home: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._tracks = open_tracks(store, vault=Vault(home))
        self._observer = next(iter(self._tracks.values()))
        self.keyring = Keyring(home, self.charter.study)
        key = self.keyring.load("coordinator", self.charter.coordinator_key)
        self._publisher = Publisher(
            store,
            key,
            self.charter.study,
            clock=clock,
            track=self._observer.track,
            gate=OTHER_ROLES,
        )

    @property
    def state(self) -> StudyState:
        """Accepted messages of the first track, and of what all tracks share."""
        return self._observer.state

    @property
    def charter(self) -> Charter:
        """The charter in force, as it was signed."""
        return self.state.charter.whole()

    def state_of(self, track: str) -> StudyState:
        """Return accepted messages of a track."""
        return self._tracks[track].state

    def starts_at(self, version: Callable[[StudyState], int]) -> dict[str, int]:
        """Return track -> version from which on a change counts.

        Args:
            version: the version, given the state of a track.
        """
        return {name: version(observer.state) for name, observer in self._tracks.items()}

    def accepted(self, kinds: Sequence[str]) -> dict[str, str]:
        """Return key on the store -> hash of the payload of accepted messages, of some kinds."""
        return {
            observer.track.on_store(text): sha256
            for observer in self._tracks.values()
            for text, sha256 in observer.state.digests.items()
            if (key := layout.parse(text)) is not None and key.kind in kinds
        }

    def amend(self, **changes: Any) -> Charter:
        """Publish the charter with changed fields and the read keys that its roster needs.

        Raises:
            StudyError: the charter was amended by somebody else at the same time.
        """
        before = self.charter
        charter = dataclasses.replace(before, **changes)
        charter = dataclasses.replace(charter, read_keys=self._read_keys(charter))
        amended = dataclasses.replace(
            charter,
            number=before.number + 1,
            key=layout.charter(before.number + 1),
            created_at=messages.utc(self._clock()),
            previous_sha256=self.state.digests[before.key],
        )
        try:
            self._publisher.publish_stamped(amended)
        except ObjectExistsError as error:
            raise StudyError(
                "The charter was amended by somebody else at the same time.", hint="run it again"
            ) from error
        for observer in self._tracks.values():
            observer.refresh()
        return amended

    def _read_keys(self, charter: Charter) -> tuple[ReadKey, ...]:
        """Return the keys that open models and plans, sealed for all who may have them now.

        All on the roster read all. Once somebody is removed, or has another key in place of one
        that may be in other hands, a new pair follows, for those on the roster and their new keys.
        """
        pairs, before, after = charter.read_keys, _readers(self.charter), _readers(charter)
        if charter.encryption != AGE or after == before:
            return pairs
        if after.items() - before.items():
            pairs = tuple(self._seal_again(pair, after) for pair in pairs)
        removed = sorted(before.keys() - after.keys())
        replaced = sorted(name for name in after.keys() & before if after[name] != before[name])
        if removed or replaced:
            names = ", ".join([*removed, *(f"the key before of {name}" for name in replaced)])
            log.info("read key replaced: %s cannot read what comes from now on", names)
            pairs = (*pairs, make_read_key(pairs[-1].number + 1, after))
        return pairs

    def _seal_again(self, pair: ReadKey, readers: Mapping[str, str]) -> ReadKey:
        secret = open_read_key(pair, self.keyring.identities("coordinator"))
        if secret is None:
            raise StudyError(
                "This host cannot decrypt the study's keys.",
                hint="work where `fedfs init` was run: coordinator.age has to be there",
            )
        return seal_read_key(pair.number, secret, readers)


def now(state: StudyState) -> int:
    """Return the newest version of a track: what starts there is in force at once."""
    return max(state.newest, 0)


def _readers(charter: Charter) -> dict[str, str]:
    """Return name -> public key of age of all who may read models and plans."""
    members = [entry.site for entry in charter.roster if entry.state in ADMITTED]
    return {name: key for name, key in holders(charter, members).items() if key}
