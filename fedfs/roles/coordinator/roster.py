"""Who takes part, and with which key: amendments of the charter, and a site's wish for one.

Rules:
 * Each amendment is a whole charter with the next number, signed by the coordinator, and names the
   hash of the one before. What it changes takes effect at a version
   (:mod:`fedfs.trust.key_validity`).
 * None of these needs anybody else to be there at the time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import ObjectExistsError, StudyError
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import open_study, open_tracks
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import (
    ACTIVE,
    ADMITTED,
    REMOVED,
    Charter,
    JoinRequest,
    ReadKey,
    RosterEntry,
)
from fedfs.protocol.state import StudyState, newest_charter
from fedfs.store.base import Store
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import (
    AGE,
    Vault,
    holders,
    make_read_key,
    open_read_key,
    seal_read_key,
)
from fedfs.trust.signing import is_endorsed, key_fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """What an amendment changed for one site: its new entry, and its key before ("" if none)."""

    entry: RosterEntry
    key_before: str = ""


class Coordinator:
    """The coordinator at work: amends the charter.

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
        self._observer = open_study(store, vault=Vault(home))
        self._tracks = {"": self._observer}
        if self.charter.tracks:
            self._tracks = open_tracks(store, vault=Vault(home))
        self._keyring = Keyring(home, self.charter.study)
        key = self._keyring.load("coordinator", self.charter.coordinator_key)
        self._publisher = Publisher(store, key, self.charter.study, clock=clock)

    @property
    def state(self) -> StudyState:
        """What is on the store."""
        return self._observer.state

    @property
    def charter(self) -> Charter:
        """The charter in force."""
        return newest_charter(self.state)

    def approve(
        self, sites: Sequence[str] | None, *, replace_keys: bool = False
    ) -> tuple[Change, ...]:
        """Admit sites to the roster, or let those go on with a new key that have asked for it.

        Args:
            sites: names; None for all that asked.
            replace_keys: also where the key before does not endorse the new one, or the site was
                removed; people have compared key fingerprints.

        Returns:
            What changed; empty if nothing did.

        Raises:
            StudyError: a site has not asked, or has another key on the roster.
        """
        asked = self.state.joins
        changes = []
        for site in sorted(asked) if sites is None else dict.fromkeys(sites):
            if site not in asked:
                raise StudyError(
                    f"site {site!r} has not asked to join",
                    hint=f"it runs: fedfs site join STORE --site {site}; "
                    f"asked so far: {', '.join(sorted(asked)) or 'nobody'}",
                )
            change = self._admit(asked[site], replace_keys=replace_keys)
            if change is not None:
                changes.append(change)
        if changes:
            self._set_entries([change.entry for change in changes])
        return tuple(changes)

    def set_state(self, sites: Sequence[str], word: str) -> Charter:
        """Pause sites, let them go on, or remove them; return the charter in force.

        Args:
            sites: names of sites on the roster.
            word: one of :data:`fedfs.protocol.messages.ROSTER_STATES`.

        Raises:
            StudyError: a site is not on the roster.
        """
        roster = self.charter.roster
        strangers = sorted(site for site in sites if self.charter.entry(site) is None)
        if strangers:
            raise StudyError(
                f"not on the roster: {', '.join(strangers)}",
                hint=f"on it are: {', '.join(entry.site for entry in roster) or 'nobody'}",
            )
        entries = [
            dataclasses.replace(entry, state=word, **self._from(_now))
            for entry in roster
            if entry.site in sites and entry.state != word
        ]
        return self._set_entries(entries) if entries else self.charter

    def replace_aggregator(
        self, public_key: str | None = None, encryption_key: str | None = None
    ) -> Charter:
        """Give the aggregator another key, from the next version on; return the charter.

        Args:
            public_key: of a key made on the new aggregator's host; None to make one here.
            encryption_key: of age, made there too; None with ``public_key`` keeps the one before.

        Raises:
            StudyError: it has that key already.
        """
        if public_key is None:
            public_key = self._keyring.create("aggregator").public
            encryption_key = self._keyring.create_identity("aggregator").recipient
        if public_key == self.charter.aggregator_key:
            raise StudyError("the aggregator has this key already")
        key_fingerprint(public_key)
        return self._amend(
            aggregator_key=public_key,
            **{f"aggregator_{name}": at for name, at in self._from(_next).items()},
            aggregator_encryption_key=encryption_key or self.charter.aggregator_encryption_key,
        )

    def replace_own_key(self) -> Charter:
        """Let later charters be signed by another key, made now; return the charter."""
        return self._amend(coordinator_key=self._keyring.create("coordinator").public)

    def _admit(self, request: JoinRequest, *, replace_keys: bool) -> Change | None:
        site, entry = request.site, self.charter.entry(request.site)
        if self.charter.encryption == AGE and not request.encryption_key:
            raise StudyError(
                f"site {site!r} has named no encryption key, which this study needs",
                hint="it asks again with this version of fedfs: fedfs site join",
            )
        if entry is None:
            added = RosterEntry(
                site=site,
                public_key=request.public_key,
                encryption_key=request.encryption_key,
                **self._from(_now),
            )
            return Change(added)
        is_new_key = entry.public_key != request.public_key
        is_removed = entry.state == REMOVED
        if not is_new_key and not (is_removed and replace_keys):
            return None
        is_wanted = is_endorsed(
            request.endorsement, entry.public_key, request.study, site, request.public_key
        )
        if not replace_keys and (is_removed or not is_wanted):
            how = "as removed" if is_removed else "with another key"
            raise StudyError(
                f"site {site!r} is on the roster {how}"
                f"; it asks with {key_fingerprint(request.public_key)}",
                hint="compare key fingerprints with the site by telephone, then give --replace-key",
            )

        def start(state: StudyState) -> int:
            has_answered = (site, state.newest) in state.updates
            return _now(state) + (has_answered and not is_removed)

        replaced = dataclasses.replace(
            entry,
            public_key=request.public_key,
            encryption_key=request.encryption_key,
            state=ACTIVE if is_removed else entry.state,
            **self._from(start),
        )
        return Change(replaced, entry.public_key)

    def _from(self, version: Callable[[StudyState], int]) -> dict[str, Any]:
        """Return the fields that say from which version on something counts, on each track."""
        at = {name: version(observer.state) for name, observer in self._tracks.items()}
        return {"from_version": at.pop("", 0), "from_versions": at}

    def _set_entries(self, entries: Sequence[RosterEntry]) -> Charter:
        roster = {entry.site: entry for entry in (*self.charter.roster, *entries)}
        return self._amend(roster=tuple(roster[site] for site in sorted(roster)))

    def _read_keys(self, charter: Charter) -> tuple[ReadKey, ...]:
        """Return who can read models and plans, as the roster now is.

        All who are on it read all; once somebody is removed, a new pair is for the others alone.
        """
        if charter.encryption != AGE:
            return charter.read_keys
        before, after, last = _readers(self.charter), _readers(charter), charter.read_keys[-1]
        gone = sorted(set(last.sealed_for) - set(after))
        if gone:
            log.info("%s can read nothing from now on", ", ".join(gone))
            return (*charter.read_keys, make_read_key(last.number + 1, after))
        if after == before:
            return charter.read_keys
        own = self._keyring.identities("coordinator")
        pairs = []
        for pair in charter.read_keys:
            secret = open_read_key(pair, own)
            if secret is None:
                raise StudyError(
                    "this host cannot decrypt the study's keys",
                    hint="work where `fedfs init` was run: coordinator.age has to be there",
                )
            pairs.append(seal_read_key(pair.number, secret, after))
        return tuple(pairs)

    def _amend(self, **changes: Any) -> Charter:
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
            self._publisher.signed(amended)
        except ObjectExistsError as error:
            raise StudyError(
                "the charter was amended by somebody else at the same time", hint="run it again"
            ) from error
        for observer in {self._observer, *self._tracks.values()}:
            observer.refresh()
        return amended


def _now(state: StudyState) -> int:
    return max(state.newest, 0)


def _next(state: StudyState) -> int:
    return state.newest + 1


def _readers(charter: Charter) -> dict[str, str]:
    """Return name -> public key of age of all who may read models and plans."""
    members = [entry.site for entry in charter.roster if entry.state in ADMITTED]
    return {name: key for name, key in holders(charter, members).items() if key}


def approve_sites(
    store: Store,
    home: Path,
    sites: Sequence[str] | None,
    *,
    clock: Clock,
    replace_keys: bool = False,
) -> tuple[Charter, tuple[Change, ...]]:
    """Admit sites to the roster; return the charter in force and what changed.

    See :meth:`Coordinator.approve`.
    """
    coordinator = Coordinator(store, home, clock=clock)
    changes = coordinator.approve(sites, replace_keys=replace_keys)
    return coordinator.charter, changes
