"""Approval of the helper of secure sums, by an amendment of the charter."""

from dataclasses import replace

from fedfs.errors import StudyError
from fedfs.protocol.messages import HelperJoin, SecureSums
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import rules_of
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.trust.sealing import parse_recipient
from fedfs.trust.signing import is_endorsed, key_fingerprint


def approve_helper(coordinator: Coordinator, *, another: bool = False) -> HelperJoin | None:
    """Let a study's sums be made with the help of who has asked for it.

    Another helper cannot open the seeds of masks that the one before knows. Sums that are not made
    yet are given up, and the rounds are closed in which sites have published such updates.

    Args:
        coordinator: amends the charter.
        another: also where the helper before does not endorse the new keys; people have compared
            key fingerprints.

    Returns:
        The request that was approved; None if it was already.

    Raises:
        StudyError: nobody has asked, or with keys that must not be the helper's.
    """
    charter, asked = coordinator.charter, coordinator.state.helper_join
    rules = rules_of(charter)
    if asked is None:
        raise StudyError(
            "Nobody has asked to be the helper.",
            hint="on a host of another organisation: fedfs helper join STORE",
        )
    if (asked.public_key, asked.encryption_key) == (rules.helper_key, rules.helper_encryption_key):
        return None
    _check_keys(coordinator, asked, rules)
    is_same = bool(rules.helper_key) and is_endorsed(
        asked.endorsement, rules.helper_key, charter.study, HELPER_SITE, asked.public_key
    )
    if rules.helper_key and not is_same and not another:
        raise StudyError(
            f"The study has a helper with the key {key_fingerprint(rules.helper_key)}; somebody "
            f"else asks with {key_fingerprint(asked.public_key)}.",
            hint="compare key fingerprints by telephone, then give --another: sums that are not "
            "made yet are given up",
        )
    new = replace(
        rules,
        helper_number=rules.helper_number + (not is_same),
        helper_key=asked.public_key,
        helper_encryption_key=asked.encryption_key,
        helper_from_versions=coordinator.starts_at(_next if rules.helper_key else _first),
    )
    closed = {}
    if rules.helper_key and not is_same:
        given_up = coordinator.starts_at(_given_up)
        new = replace(new, given_up={**rules.given_up, **{t: v for t, v in given_up.items() if v}})
        open_rounds = coordinator.starts_at(_open_round)
        closed = {track: version for track, version in open_rounds.items() if version >= 0}
    coordinator.amend(secure_sums=new, closed_rounds={**charter.closed_rounds, **closed})
    return asked


def _check_keys(coordinator: Coordinator, asked: HelperJoin, rules: SecureSums) -> None:
    """Check that a helper's keys are nobody else's, and new.

    Raises:
        StudyError: they are not.
    """
    charter = coordinator.charter
    parse_recipient(asked.encryption_key)
    signing = {charter.aggregator_key, charter.coordinator_key}
    opening = {charter.aggregator_encryption_key, charter.coordinator_encryption_key}
    if asked.public_key in signing or asked.encryption_key in opening:
        raise StudyError(
            "The aggregator or the coordinator asks to be the helper, and would see every update.",
            hint="the helper is another organisation, with keys of its own",
        )
    if asked.encryption_key == rules.helper_encryption_key:
        raise StudyError(
            "The helper asks for another key to sign with, and keeps its encryption key.",
            hint="whoever has the key before may have both; it runs: fedfs helper rotate",
        )


def _first(state: StudyState) -> int:
    return max(state.newest, 0)


def _next(state: StudyState) -> int:
    return min(state.newest + 1, state.charter.schedule.rounds)


def _given_up(state: StudyState) -> int:
    """Return the version whose sum has been asked for and not been made; 0 if there is none."""
    version = state.newest + 1
    return version if version in state.sum_requests and version not in state.mask_sums else 0


def _open_round(state: StudyState) -> int:
    """Return the version that was answered with updates for the helper before; -1 if there is none.

    All updates that wait, but for those of a sum that has been made already.
    """
    answered = state.newest + 1 in state.mask_sums
    is_open = 0 <= state.newest < state.charter.schedule.rounds
    return state.newest if is_open and state.waiting and not answered else -1
