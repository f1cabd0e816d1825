"""A helper asks to be the study's, or to go on with other keys."""

import itertools
from pathlib import Path

from fedfs import __version__
from fedfs.errors import StudyError
from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.observer import Observer
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, HelperJoin
from fedfs.protocol.sum_rules import rules_of
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.helper.memory import ROLE
from fedfs.roles.process import require_coordinator
from fedfs.store.base import Store
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import SigningKey


def join_as_helper(
    store: Store, home: Path, *, clock: Clock, expected_key: str | None = None
) -> tuple[Charter, HelperJoin]:
    """Ask to be the helper of a study; asking again changes nothing.

    Args:
        store: the study's store.
        home: this host's fedfs home, where the helper's keys are made.
        clock: POSIX seconds.
        expected_key: fingerprint of the coordinator's key, as told by telephone.

    Raises:
        MisplacedError: the study is not led by the expected key.
        StudyError: the study has no secure sums, or this host is the aggregator's or coordinator's.
        StoreError: the store refuses.
    """
    observer = open_study(store, site=HELPER_SITE)
    charter = observer.state.charter
    require_coordinator(charter, expected_key, str(store.url))
    rules_of(charter)
    keyring, before = Keyring(home, charter.study), observer.state.helper_join
    others = [role for role in ("coordinator", "aggregator") if keyring.has(role)]
    if others:
        raise StudyError(
            f"This host holds the key of the study's {others[0]}, which with the helper's sees "
            "every update.",
            hint="the helper is another organisation, on a host of its own",
        )
    key, identity = keyring.load_or_create(ROLE), keyring.identity(ROLE)
    has_asked = before is not None and before.public_key == key.public
    if before is not None and has_asked and before.encryption_key == identity.recipient:
        return charter, before
    return charter, _ask(store, observer, key, identity.recipient, clock=clock)


def ask_for_new_keys(store: Store, home: Path, *, clock: Clock) -> HelperJoin:
    """Make the helper's next keys, which those before endorse, and ask for their approval.

    The keys before go on counting until then, and still decrypt what was encrypted for them.

    Raises:
        StudyError: no helper of this host has asked before.
        KeyFileError: the key before is not here.
    """
    observer = open_study(store, site=HELPER_SITE)
    keyring = Keyring(home, observer.state.charter.study)
    rules, before = observer.state.charter.secure_sums, observer.state.helper_join
    if rules is None or before is None:
        raise StudyError("No helper has asked to join.", hint="run: fedfs helper join STORE")
    old = keyring.load(ROLE, rules.helper_key or before.public_key)
    new = keyring.create(ROLE)
    endorsement = old.endorse(observer.state.charter.study, HELPER_SITE, new.public)
    recipient = keyring.create_identity(ROLE).recipient
    return _ask(store, observer, new, recipient, clock=clock, endorsement=endorsement)


def _ask(
    store: Store,
    observer: Observer,
    key: SigningKey,
    recipient: str,
    *,
    clock: Clock,
    endorsement: str = "",
) -> HelperJoin:
    keys = (layout.join(HELPER_SITE, number) for number in itertools.count(1))
    study = observer.state.charter.study
    publisher = Publisher(store, key, study, clock=clock, track=observer.track, gate=OTHER_ROLES)
    return publisher.publish(
        HelperJoin(
            key=next(text for text in keys if text not in observer.keys),
            public_key=key.public,
            encryption_key=recipient,
            versions={"fedfs": __version__},
            endorsement=endorsement,
        )
    )
