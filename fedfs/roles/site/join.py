"""A site asks to take part: its first request, and one for a new key."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedfs.errors import DatasetError, FedfsError, StudyError, UserError
from fedfs.exchange.observer import Observer
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import open_study
from fedfs.learner import Learner, OnProgress
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.allowed.allowlist import check_name, check_planner_options, check_planning
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import difference
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import codec, layout, software
from fedfs.protocol.messages import ASYM, Charter, JoinRequest
from fedfs.protocol.state import StudyState
from fedfs.roles.process import require_coordinator
from fedfs.roles.site.config import JoinConfig
from fedfs.roles.site.policy.comparison import require_no_clash
from fedfs.roles.site.policy.file import NO_FILE, PolicyInForce, policy_in_force
from fedfs.roles.site.policy.gate import SiteGate
from fedfs.roles.site.training import make_learner
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault
from fedfs.trust.signing import SigningKey, key_fingerprint


def join_study(
    observer: Observer,
    publisher: Publisher,
    site: str,
    learner: Learner,
    *,
    difference: Sequence[str],
    encryption_key: str = "",
) -> JoinRequest:
    """Ask to be admitted; asking again changes nothing.

    Args:
        observer: has looked at the store.
        publisher: signs with the site's key.
        site: the site's name.
        learner: knows the local dataset.
        difference: a line for each place where the local ``dataset.json`` disagrees.
        encryption_key: the site's public key of age.

    Raises:
        DatasetError: the dataset disagrees with the charter.
        StudyError: the name belongs to another key.
    """
    charter = observer.state.charter
    if difference:
        raise DatasetError(
            f"The dataset of {site} disagrees with the charter of study {charter.name!r}:\n  "
            + "\n  ".join(difference),
            hint="map your labels and channels to the study's, or talk to the coordinator",
        )
    facts = learner.dataset_facts()
    entry, before = charter.entry(site), observer.state.joins.get(site)
    for other in (entry, before):
        if other is not None and other.public_key != publisher.public_key:
            raise StudyError(
                f"The name {site!r} is taken by another key ({key_fingerprint(other.public_key)}).",
                hint="choose another name, or work on the host that joined with it",
            )
    new = (facts["n_cases"], encryption_key)
    if before is not None and (before.n_cases, before.encryption_key) == new:
        return before
    return publisher.publish(
        JoinRequest(
            key=next_join(observer, site),
            site=site,
            public_key=publisher.public_key,
            n_cases=facts["n_cases"],
            file_ending=facts["file_ending"],
            versions=dict(learner.versions()),
            encryption_key=encryption_key,
        )
    )


def next_join(observer: Observer, site: str) -> str:
    """Return the key of a site's next join request."""
    keys = (layout.join(site, number) for number in itertools.count(1))
    return next(key for key in keys if key not in observer.keys)


def ask_for_new_key(
    store: Store,
    keyring: Keyring,
    site: str,
    *,
    is_lost: bool,
    clock: Clock,
    policy: PolicyInForce = NO_FILE,
) -> JoinRequest:
    """Make a site's next key and ask the coordinator to put it on the roster.

    The key before goes on counting until then, and for what it has signed.

    Args:
        store: the study's store.
        keyring: of the site's host.
        site: its name.
        is_lost: whether the key before is not on this host; otherwise it endorses the new one.
        clock: POSIX seconds.
        policy: of the site.

    Raises:
        PolicyError: the study clashes with the policy.
        StudyError: the site has not asked to join before.
        KeyFileError: the key before is not here.
    """
    observer = open_study(store, site=site, skip=("status",))
    charter, before = observer.state.charter, observer.state.joins.get(site)
    if before is None:
        raise StudyError(
            f"Site {site!r} has not asked to join.", hint="run: fedfs site join STORE --site ..."
        )
    role, entry = f"site-{site}", charter.entry(site)
    known = entry.public_key if entry is not None else before.public_key
    old = None if is_lost else keyring.load(role, known)
    require_no_clash(charter, policy.policy, source=policy.source, n_cases=before.n_cases)
    new: SigningKey = keyring.create(role)
    gate = SiteGate(policy, site, lambda: observer.state)
    publisher = Publisher(store, new, charter.study, clock=clock, track=observer.track, gate=gate)
    return publisher.publish(
        JoinRequest(
            key=next_join(observer, site),
            site=site,
            public_key=new.public,
            n_cases=before.n_cases,
            file_ending=before.file_ending,
            versions=before.versions,
            endorsement=old.endorse(charter.study, site, new.public) if old else "",
            encryption_key=keyring.create_identity(role).recipient,
        )
    )


def join(config: JoinConfig, listener: OnProgress) -> tuple[Charter, JoinRequest]:
    """Ask to be admitted to a study; a request that is refused leaves nothing behind.

    Raises:
        PolicyError: the study clashes with the site's policy, with every clash.
        SetupError, DatasetError: nnU-Net's folders, its version or the dataset are not as they
            should be.
        MisplacedError: the study is not led by the expected key.
        StudyError: there is no study, or the name belongs to another key.
    """
    store = open_store(config.store)
    policy = policy_in_force(config.home, config.policy)
    paths = from_environment(os.environ)
    raw = RawDataset.listed(paths, config.dataset)
    observer = open_study(
        store, site=config.site, skip=layout.STATUS_KINDS, vault=Vault(config.home)
    )
    charter = observer.state.charter
    require_coordinator(charter, config.expected_key, config.store)
    software.check(charter.nnunet.versions, classes.versions(), allowed=config.host.allow_versions)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    _check_planning(config, charter, observer.state, keyring)
    learner = make_learner(charter, config.site, raw.name, paths, host=config.host)
    differs = difference(codec.to_json(charter.dataset), raw.dataset_json)
    has_announced = observer.state.n_cases(config.site) is not None
    if config.host.skip_broken and not differs and not has_announced:
        learner.examine(listener)
    if not differs:  # another dataset may have another number of cases
        n_cases = learner.dataset_facts()["n_cases"]
        require_no_clash(charter, policy.policy, source=policy.source, n_cases=n_cases)
    is_new = not keyring.has(role)
    key = keyring.load_or_create(role)
    _check_same_dataset(config.site, raw.name, observer.state, keyring.memory.recall(role))
    try:
        request = join_study(
            observer,
            Publisher(
                store,
                key,
                charter.study,
                clock=time.time,
                track=observer.track,
                gate=SiteGate(policy, config.site, lambda: observer.state),
            ),
            config.site,
            learner,
            difference=differs,
            encryption_key=keyring.identity(role).recipient,
        )
    except FedfsError:
        if is_new:
            keyring.discard(role)
        raise
    planning = dict(config.planning) or keyring.memory.recall(role).get("planning", {})
    keyring.memory.remember(
        role, {"dataset": raw.name, "planning": planning, "skip_broken": config.host.skip_broken}
    )
    return charter, request


def join_once(config: JoinConfig, listener: OnProgress) -> tuple[Charter, JoinRequest] | None:
    """Ask to be admitted, where this site has not asked before; None where it has.

    Raises:
        UserError: it asked with another dataset.
        FedfsError: see :func:`join`.
    """
    observer = open_study(open_store(config.store), site=config.site, skip=layout.STATUS_KINDS)
    keyring, role = Keyring(config.home, observer.state.charter.study), f"site-{config.site}"
    if not (keyring.has(role) and config.site in observer.state.joins):
        return join(config, listener)
    given = RawDataset.listed(from_environment(os.environ), config.dataset).name
    before = keyring.memory.recall(role).get("dataset", given)
    if before != given:
        raise UserError(
            f"Site {config.site!r} has asked to join with {before}, not with {given}.",
            hint="leave out --dataset; fedfs site join changes it before the site takes part",
        )
    return None


def _check_same_dataset(
    site: str, dataset: str, state: StudyState, remembered: Mapping[str, Any]
) -> None:
    """Check that a site which has announced its data does not go on with other data.

    Raises:
        UserError: it would.
    """
    before = remembered.get("dataset", dataset)
    if before != dataset and (site in state.fingerprints or site in state.site_plans):
        raise UserError(
            f"Site {site!r} takes part with {before}, which the study knows already.",
            hint="it cannot go on with other data; leave, and join another study with these",
        )


def _check_planning(
    config: JoinConfig, charter: Charter, state: StudyState, keyring: Keyring
) -> None:
    """Check that a site may plan as it wishes.

    Raises:
        UserError: it does not plan for itself in this study, or has published its plan already.
        MalformedError: a planner or planner option is not one of nnU-Net's.
    """
    if not config.planning:
        return
    if charter.mode != ASYM:
        raise UserError(
            "In this study the aggregator plans for all sites: this site cannot plan for itself.",
            hint="leave out the options about planning",
        )
    if config.site in state.site_plans:
        before = keyring.memory.recall(f"site-{config.site}").get("planning")
        if before != codec.to_json(dict(config.planning)):
            raise UserError(
                f"Site {config.site!r} has published its plan already.",
                hint="it cannot plan otherwise in this study",
            )
    check_planner_options(config.planning.get("planner_options", {}))
    check_planning(
        config.planning.get("gpu_memory_target_gb"), config.planning.get("target_spacing")
    )
    if "planner" in config.planning:
        check_name("planner", config.planning["planner"])
