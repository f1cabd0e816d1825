"""Replacement of the aggregator's and of the coordinator's key, by an amendment of the charter.

A site's new key is approved like a new site: :mod:`fedfs.roles.coordinator.roster`.
"""

from fedfs.errors import StudyError
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.trust.signing import key_fingerprint
from fedfs.trust.verify import AGGREGATOR_ONCE


def replace_aggregator_key(
    coordinator: Coordinator, public_key: str | None = None, encryption_key: str | None = None
) -> Charter:
    """Give the aggregator another key, from the next version on; return the charter.

    Plan, admissions and choice are about no version: the charter names those that are there, and
    no others by the key before are believed.

    Args:
        coordinator: amends the charter.
        public_key: of a key made on the new aggregator's host; None to make one here.
        encryption_key: of age, made there too; None with ``public_key`` keeps the one before.

    Raises:
        StudyError: it has that key already.
    """
    if public_key is None:
        public_key = coordinator.keyring.create("aggregator").public
        encryption_key = coordinator.keyring.create_identity("aggregator").recipient
    if public_key == coordinator.charter.aggregator_key:
        raise StudyError("The aggregator has this key already.")
    key_fingerprint(public_key)
    return coordinator.amend(
        aggregator_key=public_key,
        aggregator_from_versions=coordinator.starts_at(_next),
        vouched=coordinator.accepted(AGGREGATOR_ONCE),
        aggregator_encryption_key=encryption_key or coordinator.charter.aggregator_encryption_key,
    )


def replace_coordinator_key(coordinator: Coordinator) -> Charter:
    """Let later charters be signed by another key, made now; return the charter."""
    return coordinator.amend(coordinator_key=coordinator.keyring.create("coordinator").public)


def _next(state: StudyState) -> int:
    return state.newest + 1
