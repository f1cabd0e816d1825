"""Areas of keys that one look at a store lists: where something new may be that matters now.

Rules:
 * A site looks at what is its own and at what the federation and the aggregator publish; it cannot
   and need not read other sites, but for the models that they let it score in the end.
 * The helper looks at no site but for the manifests and evaluations that a request names.
 * An area begins behind what is known, so that a look costs the same however many versions there
   are.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fedfs.protocol import layout
from fedfs.protocol.participation import answerable
from fedfs.protocol.state import StudyState
from fedfs.protocol.values import HELPER_SITE

NO_SITE = ""
"""In place of a site: only what all may read, which no site publishes."""

_LATE_VERSIONS = 2
"""A listing of a share may show objects in another order than they were written in."""


@dataclass(frozen=True)
class Area:
    """An area to list: beneath a prefix, behind a key, and not beyond another one."""

    prefix: str
    after: str = ""
    until: str = "~"


def everywhere(state: StudyState, site: str | None) -> list[Area]:
    """Return all that ``site`` may see; None sees the whole store."""
    common = [Area(layout.FEDERATION), Area(layout.AGGREGATOR)]
    if site == NO_SITE:
        return common
    if site is None:
        helper = [Area(layout.HELPER)] if state.charter.secure_sums is not None else []
        return [*common, Area(layout.SITES), *helper]
    if site == HELPER_SITE:
        return [*common, Area(layout.HELPER), *_named(state)]
    return [*common, Area(layout.site_prefix(site)), *_models(state, site)]


def worth_a_look(
    state: StudyState, site: str | None, *, skip: Collection[str], scores: bool
) -> list[Area]:
    """Return where something new may be that matters now.

    Args:
        state: what has been accepted so far.
        site: the site that looks; None sees all.
        skip: kinds of messages that nobody wants.
        scores: also look for new scores of all sites.
    """
    charter = state.charter
    if state.plan is None:
        return everywhere(state, site)
    areas = [Area(layout.FEDERATION, charter.key)]
    if state.newest >= charter.schedule.rounds:
        areas.append(Area(layout.AGGREGATOR, until=layout.FINISHED))
        manifests = {area: f"{area.prefix}manifest.json" for area in _models(state, site)}
        areas += [area for area, key in manifests.items() if key not in state.digests]
    if not set(layout.STATUS_KINDS) <= set(skip):
        areas.append(Area(layout.STATUSES))
    if charter.secure_sums is not None and site in (None, HELPER_SITE):
        areas.append(Area(layout.SUM_REQUESTS, layout.sum_request(max(state.newest, 0))))
        areas.append(Area(layout.MASK_SUMS, layout.mask_sum(max(state.newest, 0))))
    if site == HELPER_SITE:
        return [*areas, Area(*layout.models(state.newest)), *_named(state)]
    newest_record = max(state.rounds, default=-1)
    if site is not None or newest_record != state.newest:
        areas.append(Area(*layout.models(state.newest)))
    if site is None:
        after = layout.round_record(newest_record) if state.rounds else ""
        areas += [Area(layout.ROUNDS, after), *_sites_that_matter(state)]
        areas += _new_scores(state) if scores or charter.secure_scores else ()
    elif not state.is_admitted(site):
        areas.append(Area(layout.ADMISSIONS))
    return areas


def named_by_request(state: StudyState) -> tuple[str, ...]:
    """Return the keys of the messages of sites that the request for the next version names."""
    request = state.sum_requests.get(state.newest + 1)
    if request is None:
        return ()
    updates = [layout.update(one.site, one.base_version) for one in request.updates]
    scores = [
        layout.evaluation(site, state.newest, variant)
        for variant, sites in request.scores.items()
        for site in sites
    ]
    return (*updates, *scores)


def _named(state: StudyState) -> Iterator[Area]:
    """Yield where what a request names is that has not been accepted yet."""
    for text in named_by_request(state):
        key = layout.parse(text)
        if key is None or text in state.digests:
            continue
        prefix, after = text.removesuffix("manifest.json"), ""
        if key.site is not None and key.kind == "evaluation":
            prefix = layout.evaluations(key.site)
            after = layout.evaluation(key.site, state.newest, "")
        yield Area(prefix, after=after, until=text)


def _models(state: StudyState, site: str | None) -> Iterator[Area]:
    """Yield where other sites publish models for this one to score, or the aggregator to name."""
    if (site and state.charter.cross_evaluates) or (site != NO_SITE and state.charter.ensemble):
        for entry in state.charter.roster:
            if entry.site != site:
                yield Area(layout.models_of(entry.site))


def _sites_that_matter(state: StudyState) -> Iterator[Area]:
    strangers = [site for site in state.charter.active_sites if not state.is_admitted(site)]
    if strangers:
        yield Area(layout.ADMISSIONS)
    for site in answerable(state):
        if site in strangers:
            yield Area(layout.site_prefix(site))
        else:
            known = state.answered.get(site, -1) - _LATE_VERSIONS
            yield Area(*layout.updates(site, known))


def _new_scores(state: StudyState) -> Iterator[Area]:
    newest: dict[str, int] = {}
    for site, version, _ in state.evaluations:
        newest[site] = max(version, newest.get(site, 0))
    for entry in state.charter.roster:
        known = max(0, newest.get(entry.site, 0) - _LATE_VERSIONS)
        yield Area(layout.evaluations(entry.site), layout.evaluation(entry.site, known, ""))
