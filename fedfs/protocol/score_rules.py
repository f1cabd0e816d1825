"""Rules of secure scores: which scores may be added up, and with which others. Pure.

Totals of the same scores over two sets of sites show more than each of them: the difference of two
sets that differ in one site is about the score of that site, as scores change little from version
to version. So sites come in groups: two sites are in one group if no set has one of them without
the other. Whatever is computed of totals is then made of totals over groups, and none of these has
fewer sites than a sum may have. Models of several tracks score alike at one site, so that the sets
of all tracks count together.

Rules:
 * Each score counts once, whatever coefficient the site's update has, and is in one total only.
 * Of each version the scores from before its training are added up (``pseudo``); of the last one
   also those of nnU-Net's full validation, of the version and of averages of versions. These are
   all over the same sites.
 * A site that the rules keep out of a total, or whose seed is of no use, costs the others nothing
   but its part; where too few are left, there is no total.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, EvaluationMessage, MaskSum, SumRequest
from fedfs.protocol.participation import believed_sites
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import helper_number

PSEUDO, FULL = "pseudo", "full"

Sets = Mapping[str, Collection[str]]
"""Variant of an evaluation -> sites."""

SetsElsewhere = Mapping[str, Collection[frozenset[str]]]
"""Variant of an evaluation -> sets of sites whose totals are known on other tracks."""

NOWHERE_ELSE: SetsElsewhere = MappingProxyType({})


def totalled(charter: Charter, version: int) -> tuple[str, ...]:
    """Return the variants of which a total of a version is made."""
    if version < charter.schedule.rounds:
        return (PSEUDO,)
    return (PSEUDO, FULL, *charter.averages)


def is_totalled(charter: Charter, message: EvaluationMessage) -> bool:
    """Return whether an evaluation is published for a total; the others stay at the site."""
    return message.variant in totalled(charter, message.version)


def class_names(charter: Charter) -> tuple[str, ...]:
    """Return the classes that a site's numbers are about, in order; some may never occur."""
    return tuple(sorted(charter.dataset.labels))


def n_values(charter: Charter) -> int:
    """Return how many numbers a site publishes: cases, then a sum and a count of each."""
    return 3 + 2 * len(charter.dataset.labels)


def too_small(sets: Iterable[Collection[str]], min_sites: int) -> bool:
    """Return whether sets of sites show a group of fewer than ``min_sites``; see the module."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, sites in enumerate(sets):
        for site in sites:
            groups[site].append(number)
    sizes: dict[tuple[int, ...], int] = defaultdict(int)
    for numbers in groups.values():
        sizes[tuple(numbers)] += 1
    return any(size < min_sites for size in sizes.values())


def sets_to_ask_for(
    state: StudyState, elsewhere: SetsElsewhere = NOWHERE_ELSE
) -> dict[str, tuple[str, ...]]:
    """Return variant -> sites whose scores of the newest version the aggregator asks for.

    Of the sites that have scored as many as the rules allow; a variant without any is left out.

    Args:
        state: of the track.
        elsewhere: sets of other tracks.
    """
    rules, version = state.charter.secure_sums, state.newest
    if rules is None or not rules.scores:
        return {}
    found = {variant: _scored(state, variant) for variant in totalled(state.charter, version)}
    last = [sites for variant, sites in found.items() if variant != PSEUDO]
    both = set.intersection(*last) if last else set()
    wanted = {variant: sites if variant == PSEUDO else both for variant, sites in found.items()}
    before = together(earlier_sets(answered_scores(state)), elsewhere)
    out = {v: _largest(sites, before.get(v, ()), rules.min_sites) for v, sites in wanted.items()}
    return {variant: sites for variant, sites in out.items() if sites}


def _scored(state: StudyState, variant: str) -> set[str]:
    """Return the sites whose scores of the newest version this reader and the helper can use."""
    rules, believed = state.charter.secure_sums, believed_sites(state)
    return {
        site
        for (site, version, of), message in state.evaluations.items()
        if (version, of) == (state.newest, variant) and site in believed and message.masked
        if rules and helper_number(state, message.seed_for) == rules.helper_number
    }


def _largest(
    sites: Collection[str], before: Collection[frozenset[str]], min_sites: int
) -> tuple[str, ...]:
    """Return all of these sites, or the largest set before that is among them, if it may be."""
    known = {frozenset(sites), *(one for one in before if one <= set(sites))}
    for one in sorted(known, key=lambda found: (-len(found), sorted(found))):
        if one and not too_small({*before, one}, min_sites):
            return tuple(sorted(one))
    return ()


def answered_scores(state: StudyState, before: float = math.inf) -> dict[str, str]:
    """Return key of an evaluation -> hash of the request in whose total it is.

    Args:
        state: accepted messages.
        before: of requests for versions before this one.
    """
    return {
        layout.evaluation(site, version - 1, variant): answer.request_sha256
        for version, answer in state.mask_sums.items()
        if version in state.sum_requests and version < before
        for variant, sites in sets_in(state.sum_requests[version], answer).items()
        for site in sites
    }


def sets_in(request: SumRequest, answer: MaskSum) -> dict[str, tuple[str, ...]]:
    """Return variant -> sites whose scores are in the helper's sums, ascending."""
    return {
        variant: tuple(sorted(set(sites) - set(answer.scores_left_out)))
        for variant, sites in request.scores.items()
        if variant in answer.scores
    }


def earlier_sets(answered: Iterable[str]) -> dict[str, set[frozenset[str]]]:
    """Return variant -> sets of sites whose totals are known, from keys of evaluations."""
    sets: dict[tuple[str, int], set[str]] = defaultdict(set)
    for text in answered:
        key = layout.parse(text)
        if key is not None and key.kind == "evaluation":
            sets[key.variant or "", key.version or 0].add(key.site or "")
    out: dict[str, set[frozenset[str]]] = defaultdict(set)
    for (variant, _), sites in sets.items():
        out[variant].add(frozenset(sites))
    return out


def together(*several: SetsElsewhere) -> dict[str, set[frozenset[str]]]:
    """Return variant -> sets of sites, of all that are given."""
    out: dict[str, set[frozenset[str]]] = defaultdict(set)
    for one in several:
        for variant, sets in one.items():
            out[variant] |= set(sets)
    return out


def sets_of(states: Iterable[StudyState]) -> dict[str, set[frozenset[str]]]:
    """Return variant -> sets of sites whose totals are known on these tracks."""
    return together(*(earlier_sets(answered_scores(state)) for state in states))


def missing_scores(state: StudyState, request: SumRequest) -> list[str]:
    """Return the sites whose evaluations a request names and that are not accepted, or others."""
    return sorted(
        {
            site
            for variant, hashes in request.scores.items()
            for site, sha256 in hashes.items()
            if state.digests.get(layout.evaluation(site, request.version - 1, variant)) != sha256
        }
    )


def fault_of_scores(
    state: StudyState,
    request: SumRequest,
    sets: Sets,
    answered: Mapping[str, str],
    elsewhere: SetsElsewhere = NOWHERE_ELSE,
) -> dict[str, str]:
    """Return variant -> why the helper makes no sum of the masks of its scores.

    Args:
        state: what the helper accepted.
        request: that asks for scores.
        sets: variant -> sites whose masks the helper knows, of those that the request names.
        answered: key of an evaluation -> hash of the request that it was in.
        elsewhere: sets of other tracks.
    """
    rules, version, own = state.charter.secure_sums, request.version - 1, state.digests[request.key]
    if rules is None or not rules.scores:
        return dict.fromkeys(sets, "the charter asks for no secure scores")
    before = {key for key, sha256 in answered.items() if sha256 != own}
    earlier = together(earlier_sets(before), elsewhere)
    allowed = totalled(state.charter, version)
    last = {frozenset(sites) for variant, sites in sets.items() if variant != PSEUDO}
    out = {}
    for variant, sites in sets.items():
        keys = {layout.evaluation(site, version, variant): site for site in sites}
        twice = sorted(site for key, site in keys.items() if key in before)
        if variant not in allowed:
            out[variant] = f"nobody makes a total of {variant} of version {version}"
        elif twice:
            out[variant] = f"the scores of {twice[0]} were in a total before"
        elif len(sites) < rules.min_sites:
            out[variant] = f"it is of {len(sites)} sites; the charter wants {rules.min_sites}"
        elif variant != PSEUDO and len(last) > 1:
            out[variant] = "it asks for scores of the last version over several sets of sites"
        elif too_small({*earlier.get(variant, ()), frozenset(sites)}, rules.min_sites):
            out[variant] = (
                "with totals that are known, it would show one of fewer than "
                f"{rules.min_sites} sites"
            )
    return out
