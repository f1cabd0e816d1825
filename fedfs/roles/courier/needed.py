"""Choice of the objects that a courier carries: to a site those it needs, from it those it gives.

Rules:
 * To a site go charters, the plan, its own admission, manifests and records of all versions, and
   the payloads that it takes to make the newest version, in as few bytes as what the site has
   allows; in the end also models of other sites that it is to score. From a site goes all that it
   has published and that nobody has used yet.
 * What the other side is known to have does not travel: what it has named itself, and what follows
   from what it has published.
 * Payloads come before the messages that name them, and messages in the order in which one may
   refer to another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from fedfs.exchange.retention import payloads_in_use
from fedfs.protocol import layout, participation
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import ASYM, ModelManifest
from fedfs.protocol.order import publication_rank
from fedfs.protocol.state import StudyState

_MODELS_OF_SITES = ("site-model", "site-model-payload")

FOR, FROM = DIRECTIONS = ("for", "from")
"""To a site, or from it."""


def in_order(keys: Iterable[str]) -> list[str]:
    """Return keys in the order in which they are published."""
    parsed = (key for key in map(layout.parse, keys) if key is not None)
    return [key.text for key in sorted(parsed, key=publication_rank)]


def may_carry(key: Key, direction: str, site: str) -> bool:
    """Return True if an object may come in a bundle of this direction."""
    if key.text.startswith(layout.site_prefix(site)):
        return True
    is_for_all = key.kind in _MODELS_OF_SITES or not key.text.startswith(layout.SITES)
    return direction == FOR and is_for_all


def for_site(
    state: StudyState, keys: Collection[str], site: str, known: Collection[str]
) -> list[str]:
    """Return the keys that a site needs and is not known to have, in order.

    Args:
        state: what the store shows a site.
        keys: of all objects there.
        site: the site.
        known: keys that the site has.
    """
    wanted = set(_newest_statuses(keys))
    for text in keys:
        key = layout.parse(text)
        if key is None or key.is_payload or key.is_status:
            continue
        if key.site is not None and (key.kind != "site-model" or key.site == site):
            continue
        if key.kind != "admission" or text == layout.admission(site):
            wanted.add(text)
    wanted |= _payloads_of_newest(state, site, known)
    wanted |= {
        model.payload.key
        for of, model in state.site_models.items()
        if not participation.has_scored(state, site, of)
    }
    return in_order((wanted & set(keys)) - set(known))


def from_site(
    state: StudyState, keys: Collection[str], site: str, known: Collection[str]
) -> list[str]:
    """Return the keys of what a site has published and the others need, in order.

    Args:
        state: what the site's store shows it.
        keys: of all objects there.
        site: the site.
        known: keys that the other side has.
    """
    own = [text for text in keys if text.startswith(layout.site_prefix(site))]
    wanted = set(_newest_statuses(own))
    needed = {update.payload.key for update in state.waiting.values()}
    needed |= {model.payload.key for model in state.site_models.values()}
    for text in own:
        key = layout.parse(text)
        if key is not None and not key.is_status and (not key.is_payload or text in needed):
            wanted.add(text)
    return in_order(wanted - set(known))


def holds(state: StudyState, keys: Collection[str], site: str, direction: str) -> list[str]:
    """Return the keys of a sender's own store, which the other side need not send.

    Args:
        state: what the sender's store shows.
        keys: of all objects there.
        site: the site that the bundle is for or from.
        direction: of the bundle.
    """
    parsed = [key for key in map(layout.parse, keys) if key is not None]
    if direction == FOR:  # the others have of the site what is here, and what they have settled
        return sorted(k.text for k in parsed if k.site == site and not k.is_status)
    here = {
        k.text
        for k in parsed
        if (k.site is None and not k.is_payload) or (k.kind == "site-model" and k.site != site)
    }
    here -= {k.text for k in parsed if k.is_status}
    newest = max((v for v in state.models if _is_whole(state, v, keys)), default=None)
    if newest is not None:
        here |= payloads_in_use(state.models, [newest])
    pretrained = state.charter.pretrained
    return sorted(here | ({pretrained.key} if pretrained and pretrained.key in keys else set()))


def implied(state: StudyState, site: str) -> set[str]:
    """Return the keys that a site must have had, as follows from what it has published."""
    answered = [version for of, version in state.updates if of == site]
    answered += [version for of, version, _ in state.evaluations if of == site]
    newest = max(answered, default=-1)
    if newest < 0:
        return set()
    out = {message.key for message in (state.plan, state.admissions.get(site)) if message}
    for version in range(newest + 1):
        out |= {layout.model(version), layout.round_record(version)}
    if all(version in state.models for version in range(newest + 1)):
        out |= payloads_in_use(state.models, [newest])
    return out


def missing(state: StudyState, keys: Collection[str], site: str, direction: str) -> list[str]:
    """Return the payloads that are named and needed, and not there.

    Args:
        state: what the store shows once a bundle has been imported.
        keys: of all objects there then.
        site: the site that the bundle is for or from.
        direction: of the bundle.
    """
    if direction == FROM:
        waiting = (update.payload.key for update in state.waiting.values() if update.site == site)
        return sorted(set(waiting) - set(keys))
    if state.newest < 0 or state.finished is not None:
        return []
    full = payloads_in_use(state.models, [state.newest])
    deltas = _deltas_from_known(state.models, state.newest, set(keys) - full)
    ways = [full, *([deltas] if deltas is not None else [])]
    return min((sorted(way - set(keys)) for way in ways), key=len)


def superseded(state: StudyState, keys: Collection[str], site: str) -> set[str]:
    """Return keys that nobody needs any more and may have been deleted; old bundles hold them.

    Args:
        state: what the store shows once a bundle has been imported.
        keys: of all objects there then.
        site: the site that the bundle is for or from.
    """
    parsed = [key for key in map(layout.parse, keys) if key is not None]
    out = {key.text for key in parsed if key.is_status} - set(_newest_statuses(keys))
    for key in parsed:
        if key.kind == "update-payload" and key.version is not None:
            out |= {key.text} if layout.update(site, key.version) in state.settled else set()
        elif key.is_payload and key.version is not None and key.version < state.newest:
            out.add(key.text)
    return out - payloads_in_use(state.models, [max(state.newest, 0)] if state.models else [])


def _payloads_of_newest(state: StudyState, site: str, known: Collection[str]) -> set[str]:
    charter, wanted = state.charter, set()
    if charter.pretrained is not None and charter.mode == ASYM:
        wanted.add(charter.pretrained.key)
    is_done = state.newest >= 0 and state.is_validated(site, state.newest)
    if state.newest < 0 or is_done:
        return wanted
    full = payloads_in_use(state.models, [state.newest]) - set(known)
    deltas = _deltas_from_known(state.models, state.newest, set(known))
    sizes = {m.payload.key: m.payload.size for m in state.models.values()}
    sizes |= {m.full.key: m.full.size for m in state.models.values() if m.full}
    ways = [way for way in (full, deltas) if way is not None]
    return wanted | min(ways, key=lambda way: sum(sizes[key] for key in way))


def _deltas_from_known(
    models: dict[int, ModelManifest], newest: int, known: set[str]
) -> set[str] | None:
    """Return the deltas from the newest version that can be made from what is known, if any."""
    deltas: set[str] = set()
    for version in range(newest, -1, -1):
        if payloads_in_use(models, [version]) <= known:
            return deltas
        if models[version].encoding == "fp32":
            return None  # it is no delta
        deltas.add(models[version].payload.key)
    return None


def _is_whole(state: StudyState, version: int, keys: Collection[str]) -> bool:
    return payloads_in_use(state.models, [version]) <= set(keys)


def _newest_statuses(keys: Collection[str]) -> Iterator[str]:
    newest: dict[tuple[str, str | None], str] = {}
    for text in sorted(keys):
        key = layout.parse(text)
        if key is not None and key.is_status:
            newest[key.kind, key.site] = text
    yield from newest.values()
