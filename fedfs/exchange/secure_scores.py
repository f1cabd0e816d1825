"""Secure scores: the request for totals, and the totals once the masks are gone.

By the aggregator, and by whoever checks a version: the same inputs give the same totals.
"""

from collections.abc import Collection, Mapping

from fedfs.aggregation.score_totals import total_of
from fedfs.errors import TensorError
from fedfs.exchange.observer import Observer
from fedfs.protocol import layout, score_rules
from fedfs.protocol.messages import ScoreTotal, SumRequest
from fedfs.protocol.score_rules import NOWHERE_ELSE, SetsElsewhere
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import is_given_up
from fedfs.trust.masks import from_text, words_in


def scores_to_ask_for(
    state: StudyState, elsewhere: SetsElsewhere = NOWHERE_ELSE
) -> dict[str, dict[str, str]]:
    """Return variant -> site -> hash of its evaluation, of the newest version.

    Args:
        state: of the track.
        elsewhere: sets of sites whose totals are known on other tracks.
    """
    return {
        variant: {
            site: state.digests[layout.evaluation(site, state.newest, variant)] for site in sites
        }
        for variant, sites in score_rules.sets_to_ask_for(state, elsewhere).items()
    }


def request_for_last(state: StudyState, elsewhere: SetsElsewhere = NOWHERE_ELSE) -> SumRequest:
    """Return the request for the scores of the last version, which is for nothing else.

    See :func:`scores_to_ask_for`.
    """
    version = state.newest + 1
    return SumRequest(
        key=layout.sum_request(version),
        version=version,
        updates=(),
        tensors={},
        scores=scores_to_ask_for(state, elsewhere),
    )


def sets_elsewhere(
    observers: Mapping[str, Observer], track: str, *, worked_on: Collection[str]
) -> SetsElsewhere:
    """Return the sets of sites whose totals are known on the other tracks of a study.

    Args:
        observers: of all tracks.
        track: whose totals are asked for, or answered.
        worked_on: tracks of this process, which looks at them anyway; others are looked at now.

    Raises:
        StoreError: the store cannot be read.
    """
    if len(observers) == 1 or not observers[track].state.charter.secure_scores:
        return NOWHERE_ELSE
    return score_rules.sets_of(
        one.state if name in worked_on else one.refresh()
        for name, one in observers.items()
        if name != track
    )


def totals(state: StudyState, version: int) -> dict[str, ScoreTotal]:
    """Return the totals that the request for a version asked for, by variant.

    They are of the version before. Empty where nothing was asked for, or the sum was given up.

    Args:
        state: of a reader who can decrypt what sites have published for the aggregator.
        version: that the request is for.
    """
    request, answer = state.sum_requests.get(version), state.mask_sums.get(version)
    if request is None or answer is None or is_given_up(state, version):
        return {}
    sets = score_rules.sets_in(request, answer)
    out = {}
    for variant in sorted(request.scores):
        if variant not in sets:
            fault = answer.scores_refused.get(variant) or "the helper has made no sum"
            out[variant] = ScoreTotal(sites=(), fault=fault)
            continue
        try:
            out[variant] = _total(state, version - 1, variant, sets[variant])
        except TensorError as error:
            out[variant] = ScoreTotal(sites=sets[variant], fault=error.reason)
    return out


def can_read(state: StudyState, version: int) -> bool:
    """Return whether this reader can decrypt all scores that the request for a version names."""
    return all(
        (message := state.evaluations.get((site, version - 1, variant))) is not None
        and message.masked
        for variant, sites in state.sum_requests[version].scores.items()
        for site in sites
    )


def _total(state: StudyState, version: int, variant: str, sites: tuple[str, ...]) -> ScoreTotal:
    masks, n = state.mask_sums[version + 1].scores[variant], score_rules.n_values(state.charter)
    if words_in(masks) != n:
        raise TensorError(f"does not hold {n} numbers", about="the sum of masks")
    found = {site: state.evaluations[site, version, variant] for site in sites}
    return total_of(
        {site: from_text(message.masked) for site, message in found.items()},
        from_text(masks),
        score_rules.class_names(state.charter),
        sum(state.n_cases(site) or 0 for site in sites),
    )
