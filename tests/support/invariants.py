"""The invariants of ``docs/protocol.md``, section 14, by the names they have there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import parse_on_store
from support.federation import Federation


def contiguous(state: StudyState) -> None:
    assert sorted(state.models) == list(range(len(state.models)))


def one_record(state: StudyState) -> None:
    assert set(state.models) <= set(state.rounds)
    assert set(state.rounds) - set(state.models) <= {len(state.models)}


def agreement(state: StudyState) -> None:
    for version, model in state.models.items():
        assert model.payload == state.rounds[version].model
        assert model.weights_sha256 == state.rounds[version].weights_sha256


def nothing_lost(state: StudyState) -> None:
    used = Counter((u.site, u.base_version) for r in state.rounds.values() for u in r.updates)
    refused = {item.key for record in state.rounds.values() for item in record.excluded}
    assert set(used.values()) <= {1}
    for (site, base), update in state.updates.items():
        settled = ((site, base) in used) + (update.key in refused)
        assert settled + (update.key in state.waiting) == 1
    for version, record in state.rounds.items():
        assert all(update.base_version < version for update in record.updates)


def named(state: StudyState) -> None:
    """Who was left out of a version is named in its record."""
    for version, record in state.rounds.items():
        took_part = {update.site for update in record.updates}
        assert not took_part & {item.site for item in record.left_out}
        if version > 0 and state.plan is not None and state.charter is not None:
            missing = set(state.plan.sites) & set(state.charter.active_sites) - took_part
            assert missing <= {item.site for item in record.left_out} | removed(state)


def removed(state: StudyState) -> set[str]:
    """Sites that were not active, or not there, in some charter: a record may leave them out."""
    active = [set(charter.active_sites) for charter in state.charters.values()]
    return set[str]().union(*active) - active[0].intersection(*active)


def write_once(
    created: Mapping[str, bytes], now: Mapping[str, bytes], meddled: Collection[str]
) -> None:
    for key, data in created.items():
        place = parse_on_store(key)
        assert place is not None, key
        if key not in meddled and not place.is_status:
            assert now.get(key) == data, key


def finite(federation: Federation, state: StudyState) -> None:
    for version in state.models:
        assert all(np.isfinite(value).all() for value in federation.weights(version).values())


OF_THE_STATE = (contiguous, one_record, agreement, nothing_lost, named)


def check(state: StudyState) -> None:
    for holds in OF_THE_STATE:
        holds(state)
