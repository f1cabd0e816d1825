"""Status of the open round: who has answered, and until when the others are expected."""

from collections.abc import Collection

from fedfs.protocol import layout
from fedfs.protocol.messages import UpdateManifest, from_utc
from fedfs.protocol.participation import participants
from fedfs.protocol.round_policies import RoundStatus, expectation_factor
from fedfs.protocol.state import Checked, StudyState


def round_status(
    state: StudyState,
    version: int,
    usable: Collection[UpdateManifest],
    checked: Checked,
    now_s: float,
) -> RoundStatus:
    """Return the status of the round from ``version``, for the charter's policy.

    Args:
        state: what the aggregator accepted.
        version: the newest version.
        usable: of each site the newest update that waits and can be used.
        checked: what the aggregator's process has found out.
        now_s: POSIX seconds by its clock.
    """
    sites = participants(state)
    fresh = {update.site for update in usable if update.base_version == version}
    without_update = {
        site
        for site in sites
        if (site, version) not in state.updates or layout.update(site, version) in checked.absent
    }
    missing = [site for site in sites if site in without_update]
    return RoundStatus(
        version=version,
        opened_s=from_utc(state.rounds[version].created_at),
        now_s=now_s,
        n_cases={site: state.n_cases(site) or 0 for site in sites},
        answered=[site for site in sites if site in fresh],
        missing=missing,
        n_usable=len(usable),
        expected_until_s=_expected_until(state, missing, checked),
    )


def _expected_until(
    state: StudyState, missing: Collection[str], checked: Checked
) -> dict[str, float]:
    """Return until when the updates of sites are expected, where the policy asks."""
    if expectation_factor(state.charter.policy) is None:
        return {}
    estimates = expected_s(state, missing)
    seen: dict[str, tuple[int, float]] = {}
    for key, update in state.waiting.items():
        if key in checked.seen_s:
            arrived = update.base_version, checked.seen_s[key]
            seen[update.site] = max(arrived, seen.get(update.site, arrived))
    return {
        site: state.durations.expected_until(site, estimates, seen.get(site)) for site in missing
    }


def expected_s(state: StudyState, sites: Collection[str]) -> dict[str, float]:
    """Return site -> seconds within which its update is expected; {} if the policy never asks."""
    factor = expectation_factor(state.charter.policy)
    if factor is None:
        return {}
    state.durations.read(state.rounds)
    return state.durations.estimates(sites, factor)
