"""Decisions about secure sums: of the aggregator that has asked for one, and of the helper.

Rules:
 * Creating the request decides which updates a version is made of: the aggregator then waits for
   the helper, whatever else comes, until the coordinator gives the sum up.
 * The helper answers the request for the next version, if it keeps the rules
   (:mod:`fedfs.protocol.sum_rules`), and no other one.
 * With secure scores a request names scores of the version before, too
   (:mod:`fedfs.protocol.score_rules`). After the last version one request is for scores alone, once
   all sites that take part have published theirs.
"""

from collections.abc import Mapping

from fedfs.protocol import actions, participation, score_rules, sum_rules
from fedfs.protocol.actions import Done, Wait
from fedfs.protocol.messages import SumRequest
from fedfs.protocol.state import Checked, StudyState

GIVE_UP = "fedfs close-round gives the sum up, and all sites train again"


def updates_in_sum(state: StudyState, request: SumRequest) -> tuple[str, ...]:
    """Return the keys of the updates that a request names and the helper has not left out."""
    answer = state.mask_sums.get(request.version)
    left = answer.left_out if answer is not None else ()
    return tuple(sum_rules.update_key(one) for one in request.updates if one.site not in left)


def decide_requested(
    state: StudyState, request: SumRequest, checked: Checked
) -> actions.CheckUpdates | actions.CloseRound | Wait:
    """Return what the aggregator does once it has asked for the sum of a version."""
    version, keys = request.version, updates_in_sum(state, request)
    if sum_rules.is_void(state, version):
        return actions.CloseRound(version - 1, ())
    found = {*checked.usable, *checked.absent, *checked.refused}
    unchecked = tuple(key for key in keys if key in state.waiting and key not in found)
    if unchecked:
        return actions.CheckUpdates(unchecked)
    if version not in state.mask_sums:
        return Wait(f"the helper's sum for version {version}, asked for at {request.created_at}")
    lost = [key for key in keys if key not in checked.usable]
    if lost:
        return Wait(f"{', '.join(lost)} to be restored, which the sum has; {GIVE_UP}")
    return actions.CloseRound(version - 1, keys)


def lacking_scores(state: StudyState) -> tuple[str, ...]:
    """Return the sites whose scores of the last version are waited for before the study ends."""
    charter, version = state.charter, state.newest
    if not charter.secure_scores or charter.closed_round == version:
        return ()
    return tuple(
        site
        for site in participation.participants(state)
        if any(
            (site, version, variant) not in state.evaluations
            for variant in score_rules.totalled(charter, version)
        )
    )


def decide_last_scores(state: StudyState, checked: Checked) -> actions.RequestSum | Wait | None:
    """Return what the aggregator does about scores of the last version; None if it is done."""
    version, charter = state.newest, state.charter
    if not charter.secure_scores:
        return None
    request = state.sum_requests.get(version + 1)
    if request is not None:
        if version + 1 in state.mask_sums or sum_rules.is_given_up(state, version + 1):
            return None
        return Wait(f"the helper's sum of the masks of scores, asked for at {request.created_at}")
    missing = lacking_scores(state)
    if missing:
        return Wait(
            f"the scores of version {version} of {', '.join(missing)}; the coordinator may pause a "
            "site that will not come back, or end without its scores: fedfs close-round"
        )
    sets = score_rules.sets_to_ask_for(state, checked.totals_elsewhere)
    return actions.RequestSum(version, ()) if sets else None


def decide_helper(
    state: StudyState, answered: Mapping[str, str]
) -> actions.AnswerRequest | Wait | Done:
    """Return what the helper does next on a track.

    Args:
        state: what it accepted from the store.
        answered: key of an update -> hash of the request that it was in, of those that this host
            has answered.
    """
    if state.charter.secure_sums is None:
        return Done("nothing to do: this study has no secure sums")
    if state.finished is not None:
        return Done(f"finished: version {state.finished.version} is the last")
    version = state.newest + 1
    request = state.sum_requests.get(version)
    is_settled = version in state.rounds or version in state.mask_sums
    if request is None or is_settled or sum_rules.is_given_up(state, version):
        return Wait(f"the aggregator to ask for the sum of version {version + is_settled}")
    missing = sum_rules.missing_updates(state, request)
    if missing:
        return Wait(f"the manifests of the updates of {', '.join(missing)}, which a request names")
    missing = score_rules.missing_scores(state, request)
    if missing:
        return Wait(f"the evaluations of {', '.join(missing)}, which a request names")
    fault = sum_rules.fault_of(state, request, {**sum_rules.answered_before(state), **answered})
    if fault:
        text = f"the aggregator, as {request.key} is not answered: {fault}"
        return actions.RefuseRequest(text, request.key, fault)
    return actions.AnswerRequest(version)
