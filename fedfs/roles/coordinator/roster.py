"""Approval, pause and removal of sites, by an amendment of the charter's roster."""

import dataclasses
from collections.abc import Sequence

from fedfs.errors import StudyError
from fedfs.protocol.messages import ACTIVE, REMOVED, Charter, JoinRequest, RosterEntry
from fedfs.protocol.state import StudyState
from fedfs.roles.coordinator.amend import Coordinator, now
from fedfs.trust.recipients import AGE
from fedfs.trust.signing import is_endorsed, key_fingerprint


def approve_sites(
    coordinator: Coordinator, sites: Sequence[str] | None, *, replace_keys: bool = False
) -> tuple[RosterEntry, ...]:
    """Admit sites to the roster, or let those go on with a new key that have asked for it.

    Args:
        coordinator: amends the charter.
        sites: names; None for all that asked.
        replace_keys: also where the key before does not endorse the new one, or the site was
            removed; people have compared key fingerprints.

    Returns:
        The amended entries; empty if nothing changed.

    Raises:
        StudyError: a site has not asked, or has another key on the roster.
    """
    asked = coordinator.state.joins
    entries = []
    for site in sorted(asked) if sites is None else dict.fromkeys(sites):
        if site not in asked:
            raise StudyError(
                f"Site {site!r} has not asked to join.",
                hint=f"it runs: fedfs site join STORE --site {site}; "
                f"asked so far: {', '.join(sorted(asked)) or 'nobody'}",
            )
        entry = _admit(coordinator, asked[site], replace_keys=replace_keys)
        if entry is not None:
            entries.append(entry)
    if entries:
        _set_entries(coordinator, entries)
    return tuple(entries)


def set_state(coordinator: Coordinator, sites: Sequence[str], state: str) -> Charter:
    """Pause sites, let them go on, or remove them; return the charter in force.

    Args:
        coordinator: amends the charter.
        sites: names of sites on the roster.
        state: one of :data:`fedfs.protocol.messages.ROSTER_STATES`.

    Raises:
        StudyError: a site is not on the roster.
    """
    roster = coordinator.charter.roster
    strangers = sorted(site for site in sites if coordinator.charter.entry(site) is None)
    if strangers:
        raise StudyError(
            f"Not on the roster: {', '.join(strangers)}.",
            hint=f"on it are: {', '.join(entry.site for entry in roster) or 'nobody'}",
        )
    entries = [
        dataclasses.replace(entry, state=state, from_versions=coordinator.starts_at(now))
        for entry in roster
        if entry.site in sites and entry.state != state
    ]
    return _set_entries(coordinator, entries) if entries else coordinator.charter


def _admit(
    coordinator: Coordinator, request: JoinRequest, *, replace_keys: bool
) -> RosterEntry | None:
    site, entry = request.site, coordinator.charter.entry(request.site)
    if coordinator.charter.encryption == AGE and not request.encryption_key:
        raise StudyError(
            f"Site {site!r} has named no encryption key, which this study needs.",
            hint="it asks again with this version of fedfs: fedfs site join",
        )
    if entry is None:
        return RosterEntry(
            site=site,
            public_key=request.public_key,
            encryption_key=request.encryption_key,
            from_versions=coordinator.starts_at(now),
        )
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
            f"Site {site!r} is on the roster {how}"
            f"; it asks with {key_fingerprint(request.public_key)}.",
            hint="compare key fingerprints with the site by telephone, then give --replace-key",
        )

    is_same = request.encryption_key == entry.encryption_key
    if coordinator.charter.encryption == AGE and is_new_key and is_same:
        raise StudyError(
            f"Site {site!r} asks for another key to sign with, and keeps its encryption key.",
            hint="whoever has the key before may have both; it runs: fedfs key rotate",
        )

    def start(state: StudyState) -> int:
        has_answered = (site, state.newest) in state.updates
        return now(state) + (has_answered and not is_removed)

    return dataclasses.replace(
        entry,
        public_key=request.public_key,
        encryption_key=request.encryption_key,
        state=ACTIVE if is_removed else entry.state,
        from_versions=coordinator.starts_at(start),
    )


def _set_entries(coordinator: Coordinator, entries: Sequence[RosterEntry]) -> Charter:
    roster = {entry.site: entry for entry in (*coordinator.charter.roster, *entries)}
    return coordinator.amend(roster=tuple(roster[site] for site in sorted(roster)))
