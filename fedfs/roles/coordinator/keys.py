"""Replacement of the aggregator's and of the coordinator's key, by an amendment of the charter.

A site's new key is approved like a new site: :mod:`fedfs.roles.coordinator.roster`.
"""

from fedfs.errors import StudyError, UserError
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.trust.recipients import AGE
from fedfs.trust.sealing import parse_recipient
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
        encryption_key: of age, made there too; None with ``public_key`` keeps the one before, in a
            study that is not encrypted.

    Raises:
        StudyError: it has that key already.
        UserError: the study is encrypted, and the new key comes without another encryption key.
    """
    charter = coordinator.charter
    if public_key is None:
        public_key = coordinator.keyring.create("aggregator").public
        encryption_key = coordinator.keyring.create_identity("aggregator").recipient
    if public_key == charter.aggregator_key:
        raise StudyError(
            "The aggregator has this key already.",
            hint="give the public key of the new host: fedfs key create shows it",
        )
    key_fingerprint(public_key)
    if encryption_key is not None:
        parse_recipient(encryption_key)
    if charter.encryption == AGE and encryption_key in (None, charter.aggregator_encryption_key):
        raise UserError(
            "The study is encrypted, and the new aggregator needs an encryption key of its own.",
            hint="fedfs key create on the new host shows it: give it with --encryption-key",
        )
    return coordinator.amend(
        aggregator_key=public_key,
        aggregator_from_versions=coordinator.starts_at(_next),
        vouched=coordinator.accepted(AGGREGATOR_ONCE),
        aggregator_encryption_key=encryption_key or charter.aggregator_encryption_key,
    )


def replace_coordinator_key(coordinator: Coordinator) -> Charter:
    """Let later charters be signed by another key, made now; return the charter.

    The coordinator has another encryption key from then on, too.
    """
    return coordinator.amend(
        coordinator_key=coordinator.keyring.create("coordinator").public,
        coordinator_encryption_key=coordinator.keyring.create_identity("coordinator").recipient,
    )


def _next(state: StudyState) -> int:
    # After the last version the new key closes the study with it.
    return min(state.newest + 1, state.charter.schedule.rounds)
