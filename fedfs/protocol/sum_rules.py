"""Rules of secure sums: which updates and tensors may be summed, and which requests are answered.

A sum of few updates, or of one that counts far more than the others, would show what it should
hide; so would two sums that differ in one update. The aggregator keeps these rules, and the helper
answers nothing that breaks them.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.actions import Wait
from fedfs.protocol.messages import Charter, SecureSums, SummedUpdate, SumRequest
from fedfs.protocol.state import StudyState

MAX_TOTAL = 2**13 - 1
"""Largest sum of coefficients, so that a sum of levels fits 32 bits."""

MAX_TENSORS, MAX_VALUES = 20_000, 2_000_000_000

RANDOM_POSITIONS = "randk"
"""Encoding whose positions follow from the base: updates of one base version alone can be added."""

Sharing = Mapping[str, Collection[str]]
"""Tensor -> sites whose updates have it."""


def rules_of(charter: Charter) -> SecureSums:
    """Return the rules of a study's secure sums.

    Raises:
        StudyError: it has none.
    """
    if charter.secure_sums is None:
        raise StudyError(
            f"Study {charter.name!r} has no secure sums, and so needs no helper.",
            hint="a study begins with them: fedfs init --secure-sums",
        )
    return charter.secure_sums


def summed(
    sharing: Sharing, coefficients: Mapping[str, int], rules: SecureSums
) -> dict[str, tuple[str, ...]]:
    """Return the tensors that may be summed, with the sites whose updates are in the sum.

    Args:
        sharing: tensor -> sites that have it.
        coefficients: site -> how often its update is in the sum; others are not in it.
        rules: of the charter.
    """
    out = {}
    for name, sites in sharing.items():
        among = tuple(site for site in sorted(sites) if site in coefficients)
        counts = [coefficients[site] for site in among]
        if len(among) >= rules.min_sites and max(counts) <= rules.max_share * sum(counts):
            out[name] = among
    return out


def capped(coefficients: Mapping[str, int], max_share: float) -> dict[str, int]:
    """Return coefficients of which none has more than a share of their sum, as far as that goes."""
    out = dict(coefficients)
    for site in sorted(out, key=lambda name: (-out[name], name)):
        others = sum(out.values()) - out[site]
        most = math.floor(others * max_share / (1 - max_share)) if max_share < 1 else MAX_TOTAL
        while most > 1 and most > max_share * (most + others):
            most -= 1
        out[site] = min(out[site], max(1, most))
    return out


def helper_number(state: StudyState, encryption_key: str) -> int:
    """Return the number of the helper who has had an encryption key; 0 if none has."""
    rules = [charter.secure_sums for charter in state.charters.values()]
    numbers = (r.helper_number for r in rules if r and r.helper_encryption_key == encryption_key)
    return max(numbers, default=0) if encryption_key else 0


def lacks_helper(state: StudyState) -> Wait | None:
    """Return what sites wait for before they can mask an update; None if there is nothing."""
    rules = state.charter.secure_sums
    if rules is None or rules.helper_encryption_key:
        return None
    return Wait("the coordinator to approve a helper, by: fedfs helper approve STORE")


def masked_for_others(state: StudyState) -> dict[str, str]:
    """Return key -> why it cannot be in a sum any more, of updates that wait."""
    rules = state.charter.secure_sums
    return {
        key: "its mask is known to an earlier helper, and not to the one there is now"
        for key, update in state.waiting.items()
        if rules and helper_number(state, update.seed_for) != rules.helper_number
    }


def unusable(state: StudyState) -> dict[str, str]:
    """Return key -> why it cannot be in the next sum, of updates that wait.

    With ``randk`` the sum is of the base version that most updates have, of equals the newest.
    """
    out = masked_for_others(state)
    rest = {key: one.base_version for key, one in state.waiting.items() if key not in out}
    if state.charter.encoding.name == RANDOM_POSITIONS and rest and state.charter.secure_sums:
        bases = Counter(rest.values())
        base = max(bases, key=lambda version: (bases[version], version))
        out |= {key: _other_base(version, base) for key, version in rest.items() if version != base}
    return out


def lost_to(state: StudyState, version: int) -> dict[str, str]:
    """Return key -> why it is in no version, of updates that wait once a version is made.

    Args:
        state: what the aggregator accepted.
        version: of which the request may have been answered, or given up.
    """
    out, request = masked_for_others(state), state.sum_requests.get(version)
    if request is None or not request.updates:
        return out
    base = min(one.base_version for one in request.updates)
    if state.charter.encoding.name == RANDOM_POSITIONS:
        for key, update in state.waiting.items():
            if update.base_version < base:
                out.setdefault(key, _other_base(update.base_version, base))
    sites = {update_key(one): one.site for one in request.updates}
    answer = state.mask_sums.get(version)
    if is_given_up(state, version) or answer is None:
        return out | dict.fromkeys(sites, "the sum that it was to be part of has been given up")
    left = dict(answer.left_out)
    if answer.payload is None:
        few = "too few updates were left for a sum that shows none of them"
        left = {site: left.get(site, few) for site in sites.values()}
    return out | {key: left[site] for key, site in sites.items() if site in left}


def _other_base(version: int, base: int) -> str:
    return f"it comes from version {version}, and with randk a sum has updates from {base} alone"


def update_key(update: SummedUpdate) -> str:
    """Return the key of an update that a request names."""
    return layout.update(update.site, update.base_version)


def is_given_up(state: StudyState, version: int) -> bool:
    """Return whether the coordinator has given up the sum for a version."""
    return state.charter.given_up_sum == version


def was_given_up(state: StudyState, version: int) -> bool:
    """Return whether any charter so far gives up the sum for a version, for looking back."""
    return any(charter.given_up_sum == version for charter in state.charters.values())


def is_void(state: StudyState, version: int) -> bool:
    """Return whether nothing is made of the request for a version."""
    answer = state.mask_sums.get(version)
    return is_given_up(state, version) or (answer is not None and answer.payload is None)


def answered_before(state: StudyState) -> dict[str, str]:
    """Return key of an update -> hash of the request that was answered with its mask in the sum."""
    return {
        update_key(one): answer.request_sha256
        for version, answer in state.mask_sums.items()
        if version in state.sum_requests
        for one in state.sum_requests[version].updates
    }


def missing_updates(state: StudyState, request: SumRequest) -> list[str]:
    """Return the sites whose updates a request names and that are not accepted, or other ones."""
    return [
        one.site
        for one in request.updates
        if state.digests.get(update_key(one)) != one.manifest_sha256
    ]


def fault_of(state: StudyState, request: SumRequest, answered: Mapping[str, str]) -> str:
    """Return why the helper does not answer a request; "" if it does.

    Args:
        state: what the helper accepted.
        request: whose updates are all accepted.
        answered: key of an update -> hash of the request that it was in, of all that were answered.
    """
    rules = state.charter.secure_sums
    counts = {one.site: one.coefficient for one in request.updates}
    if rules is None:
        return "the charter asks for no secure sums"
    if not request.updates:
        is_last = request.version > state.charter.schedule.rounds
        return "" if rules.scores and is_last else "it names no update, and it is not for scores"
    if min(counts.values()) < 1 or sum(counts.values()) > MAX_TOTAL:
        return f"its coefficients are not each at least 1 and at most {MAX_TOTAL} in all"
    n_values = sum(map(math.prod, request.tensors.values()))
    if not 0 < len(request.tensors) <= MAX_TENSORS or n_values > MAX_VALUES:
        return f"it asks for {len(request.tensors)} tensors of {n_values} values"
    if len(counts) < rules.min_sites:
        return f"it asks for a sum of {len(counts)} sites; the charter wants {rules.min_sites}"
    left = sorted(set(request.tensors) - set(summed(request.sharing, counts, rules)))
    if left:
        return (
            f"of the tensor {left[0]!r} it asks for a sum of too few sites, or one in which the "
            f"coefficient of a site is more than {rules.max_share:g} of all"
        )
    own = state.digests[request.key]
    for one in request.updates:
        key = update_key(one)
        if answered.get(key, own) != own:
            return f"the update of {one.site} from version {one.base_version} was in a sum before"
    return ""
