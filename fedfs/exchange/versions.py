"""Updates that count in a version, their weights, and their lines in the round record."""

import statistics
from collections.abc import Mapping, Sequence

from fedfs.aggregation import weighting
from fedfs.errors import MalformedError
from fedfs.protocol import layout, participation, round_policies, sum_rules
from fedfs.protocol.messages import Charter, Excluded, LeftOut, UpdateManifest, UsedUpdate, from_utc
from fedfs.protocol.state import Checked, StudyState

_FEWEST_TO_COMPARE = 3
"""Fewest updates with an outlier: of two, either may be the odd one."""


def check_claims(update: UpdateManifest, state: StudyState) -> None:
    """Check what an update says of itself against what its site published before."""
    known = state.n_cases(update.site)
    if known is None or not 0 < update.n_training_cases <= known:
        raise MalformedError(
            f"claims {update.n_training_cases} training cases; its site has announced {known}",
            about="the update",
        )
    if update.n_iterations <= 0:
        raise MalformedError("completed no iteration", about="the update")


def outliers(moves: Mapping[str, float], ratio: float) -> dict[str, str]:
    """Return key of an update -> why it is refused, of those that move the model too far.

    Args:
        moves: key -> root mean square of what each update changes, of all that would go in.
        ratio: how many times as far as the median an update may move it; 0 for any.
    """
    if ratio <= 0 or len(moves) < _FEWEST_TO_COMPARE:
        return {}
    middle = statistics.median(moves.values())
    return {
        key: f"the update moves the model {move / middle:.3g} times as far as the median of this "
        f"round's updates; at most {ratio:g} times is allowed"
        for key, move in moves.items()
        if middle > 0 and move > ratio * middle
    }


def weigh(updates: Sequence[UpdateManifest], charter: Charter, base: int) -> dict[str, float]:
    """Return site -> weight of its update under the charter's rules; weights sum to 1.

    Args:
        updates: what goes into the version after ``base``, one of a site.
        charter: says how they count.
        base: the newest version; updates from earlier ones count less.
    """
    if not updates:
        return {}
    budget = charter.schedule.local_epochs * charter.schedule.iterations_per_epoch
    contributions = [
        weighting.Contribution(
            site=update.site,
            n_cases=update.n_training_cases,
            n_iterations=update.n_iterations,
            planned_iterations=budget,
            lag=base - update.base_version,
        )
        for update in updates
    ]
    weights = weighting.weigh(
        contributions,
        charter.weighting.name,
        staleness_exponent=round_policies.staleness_exponent(charter.policy),
    )
    return {u.site: weight for u, weight in zip(updates, weights, strict=True)}


def used(
    updates: Sequence[UpdateManifest],
    weights: Mapping[str, float],
    state: StudyState,
    seen_s: Mapping[str, float],
) -> tuple[UsedUpdate, ...]:
    """Return what the round record says of the updates that went in.

    Args:
        updates: what went in.
        weights: of each site.
        state: what the aggregator accepted.
        seen_s: key of an update -> when the aggregator first saw it.
    """
    return tuple(
        UsedUpdate(
            site=update.site,
            base_version=update.base_version,
            manifest_sha256=state.digests[update.key],
            payload_sha256=update.payload.sha256,
            weight=weights[update.site],
            n_training_cases=update.n_training_cases,
            n_iterations=update.n_iterations,
            size=update.payload.size,
            arrived_s=_arrived_s(update, state, seen_s),
        )
        for update in updates
    )


def _arrived_s(
    update: UpdateManifest, state: StudyState, seen_s: Mapping[str, float]
) -> float | None:
    if update.key not in seen_s:
        return None
    opened_s = from_utc(state.rounds[update.base_version].created_at)
    return round(max(0.0, seen_s[update.key] - opened_s), 1)


def without(sites: Sequence[LeftOut], state: StudyState) -> str:
    """Return a clause for the log on sites without an update in a version: ``; without south``."""
    if not sites:
        return ""
    n_cases = {site: state.n_cases(site) or 0 for site in participation.believed_sites(state)}
    total = sum(n_cases.values()) or 1
    names = (f"{one.site} ({100 * n_cases.get(one.site, 0) / total:.0f} %)" for one in sites)
    return f"; without {', '.join(names)} of all cases"


def excluded(
    base: int, updates: Sequence[UpdateManifest], checked: Checked, state: StudyState
) -> tuple[Excluded, ...]:
    """Return which objects did not go into the version after ``base``, with the reason.

    Args:
        base: the newest version.
        updates: what went in.
        checked: what the aggregator found out; absent payloads are waited for.
        state: what the aggregator accepted.
    """
    reasons = dict(checked.refused)
    for key_text, reason in state.rejected.items():
        key = layout.parse(key_text)
        if key is not None and key.kind == "update" and key.version == base:
            reasons[key_text] = reason
    reasons |= sum_rules.lost_to(state, base + 1)
    went_in = {update.key for update in updates}
    in_use = {update.site: update.base_version for update in updates}
    for key_text, update in state.waiting.items():
        is_older = update.base_version < in_use.get(update.site, -1)
        if is_older and key_text not in checked.absent:
            reasons.setdefault(key_text, "the update is older than the one of its site in use")
    out = []
    for key_text, reason in sorted(reasons.items()):
        key = layout.parse(key_text)
        is_open = key_text not in state.settled and key_text not in went_in
        if key is not None and key.kind == "update" and is_open:
            out.append(Excluded(site=key.site or "", key=key_text, reason=reason))
    return tuple(out)


def left_out(
    base: int, updates: Sequence[UpdateManifest], checked: Checked, state: StudyState
) -> tuple[LeftOut, ...]:
    """Return the sites without an update in the version after ``base``, and since when."""
    before = {item.site: item for item in state.rounds[base].left_out}
    refused = {**checked.refused, **sum_rules.lost_to(state, base + 1)}
    reasons = participation.left_out(state, base, {update.site for update in updates}, refused)
    return tuple(
        LeftOut(
            site=site,
            since_version=before[site].since_version if site in before else base + 1,
            since=before[site].since if site in before else state.rounds[base].created_at,
            reason=reason,
        )
        for site, reason in reasons.items()
    )
