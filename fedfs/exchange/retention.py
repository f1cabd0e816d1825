"""Delete payloads that nobody needs any more; messages stay, so that a study can be read for ever.

Rules:
 * Kept are the newest versions, as many as asked for or as sites average, with the memory and the
   exponential average after each of them; version 0, from which a site may train alone; the version
   that a site may be training from; what an update that waits was trained from. Of each of them,
   also what it is made from: the newest version in full before it, and the deltas after that.
 * A site tells by its evaluation what it trains from. One that is reached by a courier tells it
   together with the update: until then it may be training from any version after its last update.
 * Of updates only those go that a round record has settled, and that are older than these versions.
 * Where the memory after a kept version is made again from updates (:mod:`fedfs.exchange.memory`),
   that takes the memory before, these updates, and the versions that they were trained from.
 * A reader that is overtaken finds nothing and takes the newest version instead.
"""

import logging
from collections.abc import Iterable, Mapping

from fedfs.errors import StorePermissionError
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import ModelManifest, RoundRecord
from fedfs.protocol.state import StudyState
from fedfs.store.base import Store

log = logging.getLogger(__name__)


def prune_versions(store: Store, state: StudyState, keep: int) -> int:
    """Delete payloads of old versions and of old updates; return how many.

    Args:
        store: where they are.
        state: what the aggregator accepted.
        keep: newest versions to keep, at least 1.

    Raises:
        StoreError: the store refuses.
    """
    keep = max(keep, state.charter.average_last)
    again = made_again(state, keep)
    used = {one.base_version for record in again for one in record.updates}
    used |= {record.version - 1 for record in again}
    in_use = _versions_in_use(store, state, keep) | (used & set(state.models))
    kept = payloads_in_use(state.models, in_use)
    oldest = state.newest - keep + 1
    first = min([oldest, *(record.version - 1 for record in again)])
    for record in state.rounds.values():
        if record.ema is not None and record.version >= oldest:
            kept.add(record.ema.key)
        if record.state is not None and record.version >= first:
            kept.add(record.state.key)
    n_deleted = 0
    for entry in list(store.list(layout.models()[0])):
        key = layout.parse(entry.key)
        if (
            key is not None
            and key.is_payload
            and entry.key not in kept
            and (key.version or 0) in state.models
        ):
            store.delete(entry.key)
            n_deleted += 1
    roster = state.charter.roster
    return n_deleted + sum(prune_updates(store, state, entry.site, keep) for entry in roster)


def prune_updates(store: Store, state: StudyState, site: str, keep: int) -> int:
    """Delete payloads of a site's old updates that have been used or refused; return how many.

    Where this host may not delete them, that is logged: the site may do it.

    Raises:
        StoreError: the store refuses otherwise.
    """
    n_deleted = 0
    if state.charter.ensemble and site not in state.site_models:
        return n_deleted  # the site makes its model of it
    again = made_again(state, keep)
    needed = {one.base_version for record in again for one in record.updates if one.site == site}
    for entry in list(store.list(layout.updates(site)[0])):
        key = layout.parse(entry.key)
        if key is None or not key.is_payload or key.version is None or key.version in needed:
            continue
        if key.version <= state.newest - keep and layout.update(site, key.version) in state.settled:
            try:
                store.delete(entry.key)
            except StorePermissionError as error:
                log.info("old updates of %s are not deleted: %s", site, error)
                return n_deleted
            n_deleted += 1
    return n_deleted


def prune_sums(store: Store, state: StudyState, keep: int) -> int:
    """Delete payloads of the helper's old sums, of which versions have been made; return how many.

    Raises:
        StoreError: the store refuses.
    """
    n_deleted = 0
    needed = {record.version for record in made_again(state, keep)}
    for entry in list(store.list(layout.MASK_SUMS)):
        key = layout.parse(entry.key)
        if key is None or not key.is_payload or key.version in needed:
            continue
        if (key.version or 0) <= state.newest - keep:
            store.delete(entry.key)
            n_deleted += 1
    return n_deleted


def made_again(state: StudyState, keep: int) -> list[RoundRecord]:
    """Return records of the versions of which a host that has nothing makes the memory again.

    Args:
        state: accepted messages.
        keep: newest versions that are kept.
    """
    first = max(0, min(state.newest, state.newest - keep + 1))
    while first > 0 and _is_made_again(state.rounds[first]):
        first -= 1
    later = (state.rounds[number] for number in range(first + 1, state.newest + 1))
    return [record for record in later if _is_made_again(record)]


def _is_made_again(record: RoundRecord) -> bool:
    return bool(record.memory_sha256) and record.state is None


def payloads_in_use(models: Mapping[int, ModelManifest], versions: Iterable[int]) -> set[str]:
    """Return the keys of all payloads that it takes to make these versions."""
    kept: set[str] = set()
    for version in versions:
        for number in range(version, -1, -1):
            model = models[number]
            if model.full is not None:
                kept.add(model.full.key)
                break
            kept.add(model.payload.key)
    return kept


def _versions_in_use(store: Store, state: StudyState, keep: int) -> set[int]:
    newest = state.newest
    versions = {0, *range(max(0, newest - keep + 1), newest + 1)}
    versions |= {update.base_version for update in state.waiting.values()}
    taking_part = participation.participants(state)
    for site in participation.answerable(state):
        # A site evaluates a version before it trains from it. The key says enough.
        prefix = layout.evaluations(site)
        keys = (layout.parse(entry.key) for entry in store.list(prefix))
        seen = max((key.version for key in keys if key and key.version is not None), default=-1)
        answered = state.answered.get(site, -1)
        if seen > answered:
            versions.add(seen)
        elif site in taking_part:
            versions |= {*range(answered + 1, newest)}
    return versions & set(state.models)
