"""Choice of the objects that a courier carries: to a site those it needs, from it those it gives.

Rules:
 * To a site go charters, the plan, its own admission, manifests and records of all versions, and
   the payloads that it takes to make the newest version, in as few bytes as what the site has
   allows; in the end also models of other sites that it is to score. From a site goes all that it
   has published and that nobody has used yet.
 * What the other side is known to have does not travel: what it has named itself, and what follows
   from what it has published.
 * The helper of secure sums stands in a site's place:
   :mod:`fedfs.roles.courier.needed_by_helper`.
 * Payloads come before the messages that name them, and messages in the order in which one may
   refer to another.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from fedfs.exchange.retention import payloads_in_use
from fedfs.protocol import layout, participation
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import ASYM, ModelManifest
from fedfs.protocol.order import publication_rank
from fedfs.protocol.state import StudyState
from fedfs.protocol.values import HELPER_SITE

NOT_FOR_SITES = ("sum-request", "mask-sum", "helper-join")
"""Between aggregator, helper and coordinator; a round record says what came of it."""

FOR, FROM = DIRECTIONS = ("for", "from")
"""To a site, or from it."""


def in_order(keys: Iterable[str]) -> list[str]:
    """Return keys in the order in which they are published."""
    return [key.text for key in sorted(parsed_keys(keys), key=publication_rank)]


def may_carry(key: Key, direction: str, site: str) -> bool:
    """Return True if an object may come in a bundle of this direction.

    Args:
        key: of the object.
        direction: ``for`` or ``from``.
        site: whom the bundle is for or from, see :func:`fedfs.protocol.values.check_party`.
    """
    if key.text.startswith(layout.site_prefix(site)):
        return True
    if site == HELPER_SITE:
        of_nobody_else = not key.writer or key.kind in ("update", "evaluation")
        return direction == FOR and of_nobody_else and not key.is_payload
    is_model = key.kind in ("site-model", "site-model-payload")
    return direction == FOR and (is_model or not key.text.startswith(layout.SITES))


@dataclass(frozen=True)
class TrackContent:
    """Objects of one track, as a site or its courier sees them; the track's own keys.

    Attributes:
        state: accepted messages; those that a bundle brings are among them once it is imported.
        keys: of all objects.
        site: the site that is carried for, or the helper in place of one.
        known: keys that the other side has.
    """

    state: StudyState
    keys: Collection[str]
    site: str
    known: Collection[str] = ()

    def for_site(self) -> list[str]:
        """Return the keys that the site needs and is not known to have, in order."""
        wanted = set(newest_statuses(self.keys))
        for key in parsed_keys(self.keys):
            if key.is_payload or key.is_status or key.kind in NOT_FOR_SITES:
                continue
            if key.site is not None and (key.kind != "site-model" or key.site == self.site):
                continue
            if key.kind != "admission" or key.text == layout.admission(self.site):
                wanted.add(key.text)
        wanted |= self._payloads_of_newest()
        wanted |= {
            model.payload.key
            for of, model in self.state.site_models.items()
            if not participation.has_scored(self.state, self.site, of)
        }
        return in_order((wanted & set(self.keys)) - set(self.known))

    def from_site(self) -> list[str]:
        """Return the keys of what the site has published and the others need, in order."""
        own = [text for text in self.keys if text.startswith(layout.site_prefix(self.site))]
        needed = {update.payload.key for update in self.state.waiting.values()}
        needed |= {model.payload.key for model in self.state.site_models.values()}
        needed |= self._unused_sums()
        wanted = set(newest_statuses(own))
        for key in parsed_keys(own):
            if not key.is_status and (not key.is_payload or key.text in needed):
                wanted.add(key.text)
        return in_order(wanted - set(self.known))

    def holds(self, direction: str) -> set[str]:
        """Return the keys of the sender's store that the other side need not send."""
        site, parsed = self.site, [key for key in parsed_keys(self.keys) if not key.is_status]
        if direction == FOR:  # the others have of the site what is here, and what they have settled
            return {key.text for key in parsed if key.writer == site}
        here = {
            key.text
            for key in parsed
            if (key.site is None and not key.is_payload)
            or (key.kind == "site-model" and key.site != site)
        }
        models, keys = self.state.models, set(self.keys)
        whole = [version for version in models if payloads_in_use(models, [version]) <= keys]
        if whole:
            here |= payloads_in_use(models, [max(whole)])
        return here | (self._given_by_charter() & keys)

    def implied(self) -> set[str]:
        """Return the keys that the site must have had, as follows from what it has published."""
        state, site = self.state, self.site
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

    def missing(self, direction: str) -> set[str]:
        """Return the payloads that are named and needed, and not there."""
        state, keys = self.state, set(self.keys)
        if direction == FROM:
            waiting = state.waiting.values()
            return {update.payload.key for update in waiting if update.site == self.site} - keys
        if state.charter.evaluates:
            return self._given_by_charter() - keys if self._needs_given() else set()
        if state.newest < 0 or state.finished is not None:
            return set()
        full = payloads_in_use(state.models, [state.newest])
        deltas = _deltas_from_known(state.models, state.newest, keys - full)
        return min((way - keys for way in (full, deltas) if way is not None), key=len)

    def superseded(self) -> set[str]:
        """Return keys in old bundles that nobody needs any more and that may have been deleted."""
        state, parsed = self.state, parsed_keys(self.keys)
        out = {key.text for key in parsed if key.is_status} - set(newest_statuses(self.keys))
        for key in parsed:
            if key.kind == "update-payload" and key.version is not None:
                if layout.update(self.site, key.version) in state.settled:
                    out.add(key.text)
            elif key.is_payload and key.version is not None and key.version < state.newest:
                out.add(key.text)
        return out - payloads_in_use(state.models, [max(state.newest, 0)] if state.models else [])

    def _unused_sums(self) -> set[str]:
        """Return the payloads of the helper's sums of which no version is made yet."""
        answers = self.state.mask_sums.values()
        unused = [one.payload for one in answers if one.version > self.state.newest]
        return {payload.key for payload in unused if payload is not None}

    def _given_by_charter(self) -> set[str]:
        """Return the payloads that the coordinator has published."""
        charter = self.state.charter
        given = [one.payload for model in charter.given for one in model.folds]
        return {ref.key for ref in (charter.pretrained, *given) if ref is not None}

    def _needs_given(self) -> bool:
        """Return whether the site works with what the coordinator has published."""
        if self.state.charter.evaluates:
            is_member = self.state.is_admitted(self.site)
            return is_member and bool(participation.unscored(self.state, self.site))
        return self.state.charter.mode == ASYM or self.state.charter.train_only is not None

    def _payloads_of_newest(self) -> set[str]:
        """Return the payloads that make the newest version, in as few bytes as possible."""
        state, known = self.state, set(self.known)
        wanted = self._given_by_charter() if self._needs_given() else set()
        if state.newest < 0:
            return wanted
        wanted |= self._payloads_of_averages()
        if state.is_validated(self.site, state.newest):
            return wanted
        full = payloads_in_use(state.models, [state.newest]) - known
        deltas = _deltas_from_known(state.models, state.newest, known)
        sizes = {m.payload.key: m.payload.size for m in state.models.values()}
        sizes |= {m.full.key: m.full.size for m in state.models.values() if m.full}
        ways = [way for way in (full, deltas) if way is not None]
        return wanted | min(ways, key=lambda way: sum(sizes[key] for key in way))

    def _payloads_of_averages(self) -> set[str]:
        """Return the payloads of the averages that the site has still to validate, in the end."""
        state, charter = self.state, self.state.charter
        version, wanted = state.newest, set[str]()
        if version < charter.schedule.rounds:
            return wanted
        if charter.average_last and (self.site, version, "average") not in state.evaluations:
            first = max(1, version - charter.average_last + 1)
            wanted |= payloads_in_use(state.models, range(first, version + 1))
        ema = state.models[version].ema
        if ema is not None and (self.site, version, "ema") not in state.evaluations:
            wanted.add(ema.key)
        return wanted


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


def parsed_keys(keys: Iterable[str]) -> list[Key]:
    """Return the keys that the protocol has."""
    return [key for key in map(layout.parse, keys) if key is not None]


def newest_statuses(keys: Collection[str]) -> Iterator[str]:
    """Yield the keys of the newest status of each sender."""
    newest: dict[tuple[str, str | None], str] = {}
    for key in parsed_keys(sorted(keys)):
        if key.is_status:
            newest[key.kind, key.site] = key.text
    yield from newest.values()
