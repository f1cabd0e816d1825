"""A site's process, and what its operator does: join, say that it is away, take its model."""

import contextlib
import os
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from fedfs.aggregation.best_configuration import CrossValidated
from fedfs.errors import ObjectExistsError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_study, open_tracks
from fedfs.learner import OnProgress
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.broken_cases import cases_of_study
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.score.cross_validation import CrossValidationRequest
from fedfs.nnunet.system.environment import NnUNetPaths, from_environment
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.nnunet.train import parallel
from fedfs.protocol import actions, codec, decide, layout, participation, software
from fedfs.protocol.messages import Attendance, chosen_tracks
from fedfs.protocol.state import StudyState
from fedfs.roles.log_format import set_log_fields
from fedfs.roles.loop import Outcome, run
from fedfs.roles.polling import Waiter
from fedfs.roles.process import guard_against_rollback, hold_tracks, publisher_on, start_status
from fedfs.roles.site.admission import Admission
from fedfs.roles.site.best_configuration import SiteChoice
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.own_model import PersonalModel
from fedfs.roles.site.policy.comparison import require_no_clash
from fedfs.roles.site.policy.file import PolicyInForce, policy_in_force
from fedfs.roles.site.policy.gate import SiteGate
from fedfs.roles.site.step import Site
from fedfs.roles.site.training import (
    LOCAL,
    PERSONAL,
    site_folder,
    site_parts,
    track_folder,
    training_folder,
)
from fedfs.roles.step import AFTER_TRACKS, Role
from fedfs.roles.tracks import at_once
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.store.prefix import TrackStore
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault


def run_site(config: SiteConfig, listener: OnProgress) -> Outcome:
    """Run a site until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.roles.site.step.Site.step`.
    """
    store, policy = open_store(config.store), policy_in_force(config.home, config.policy)
    paths = from_environment(os.environ)
    observers = open_tracks(
        store,
        site=config.site,
        skip=("status",),
        cache=lambda study: site_folder(paths, study, config.site) / "messages",
        vault=Vault(config.home),
    )
    charter = next(iter(observers.values())).state.charter
    names = chosen_tracks(charter, config.tracks)
    config.check_against(charter)
    only = charter.tracks[0].name if len(charter.tracks) == 1 else ""
    set_log_fields(study=charter.study, site=config.site, track=only)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    folders = {name: track_folder(paths, charter.on(name), config.site) for name in names}
    base = site_folder(paths, charter.study, config.site)
    with contextlib.ExitStack() as stack:
        who = f"site {config.site!r}"
        busy = stack.enter_context(hold_tracks(who, charter, folders, base, once=config.once))
        if busy:
            return busy
        stack.enter_context(guard_against_rollback(keyring, role, observers, names))
        software.check(
            charter.nnunet.versions, classes.versions(), allowed=config.host.allow_versions
        )
        if config.host.num_gpus > 1:
            parallel.check_devices(config.host)
        waiter = Waiter(store.watch_path(), config.wait, rng=random.Random())  # noqa: S311  jitter
        stack.enter_context(waiter)
        loop = partial(run, wait=waiter.wait, reset=waiter.reset, once=config.once)
        admission = loop(Admission(config.site, observers[names[0]], keyring).step)
        if not admission.finished:
            return admission
        for observer in observers.values():
            observer.refresh()
        sites = {
            name: _make_site(config, policy, store, observers[name], keyring, listener, paths)
            for name in names
        }

        def is_done(name: str) -> bool:
            state = observers[name].state if name in sites else observers[name].refresh()
            return participation.is_over(state, [config.site])

        workers: dict[str, Role[Any]] = dict(sites)
        if charter.cross_validates and names[0] == charter.tracks[0].name:  # one process does
            workers[AFTER_TRACKS] = _make_choice(
                config, policy, store, observers, keyring, listener, paths
            )
        step = at_once(charter, workers, is_done)
        try:
            return loop(step)
        finally:
            for site in sites.values():
                site.rest()


def _make_site(
    config: SiteConfig,
    policy: PolicyInForce,
    place: Store,
    observer: Observer,
    keyring: Keyring,
    listener: OnProgress,
    paths: NnUNetPaths,
) -> Site:
    """Return a site at work on one track of a study."""
    charter, role = observer.state.charter, f"site-{config.site}"
    store = ReportingStore(TrackStore(place, observer.track), listener)
    gate = SiteGate(policy, config.site, lambda: observer.state)
    publisher = publisher_on(store, observer, keyring, role, gate)
    learner, folder = site_parts(config, store, charter, paths)
    alone = None
    if config.local_model:
        alone, _ = site_parts(config, store, charter, paths, own_model=LOCAL)
    averages = {
        variant: site_parts(config, store, charter, paths, own_model=variant)[0]
        for variant in charter.averages
    }
    personal = None
    if config.personal is not None:
        tuner, _ = site_parts(config, store, charter, paths, own_model=PERSONAL)
        personal = PersonalModel(
            tuner,
            training_folder(folder, PERSONAL),
            config.personal,
            publishes=config.publish_personal,
        )
    return Site(
        config.site,
        observer=observer,
        publisher=publisher,
        status=start_status(publisher, config.status_interval_s, store, config.site),
        learner=learner,
        folder=folder,
        local_minutes=_minutes(config, policy),
        keep_versions=config.keep_versions,
        alone=alone,
        personal=personal,
        averages=averages,
        publish_cases=config.publish_cases,
        policy=policy,
        attendance=lambda: _remembered_attendance(keyring, config.site),
    )


def _make_choice(
    config: SiteConfig,
    policy: PolicyInForce,
    place: Store,
    observers: Mapping[str, Observer],
    keyring: Keyring,
    listener: OnProgress,
    paths: NnUNetPaths,
) -> SiteChoice:
    """Return what a site does after all tracks of a study."""
    observer = open_study(place, site=config.site, skip=("status",), vault=Vault(config.home))
    charter, role = observer.state.charter, f"site-{config.site}"
    store = ReportingStore(TrackStore(place, observer.track), listener)
    gate = SiteGate(policy, config.site, lambda: observer.state)
    publisher = publisher_on(store, observer, keyring, role, gate)
    spec, dataset = charter.nnunet, str(keyring.memory.recall(role)["dataset"])

    def validate(on_progress: OnProgress) -> CrossValidated:
        planned = participation.planned_configurations(next(iter(observers.values())).state)
        listed = RawDataset.listed(paths, dataset)
        folder = site_folder(paths, charter.study, config.site)
        request = CrossValidationRequest(
            paths=paths,
            dataset=listed.name,
            models={c: f"{spec.trainer}__{spec.plans_name}__{c}" for c in planned},
            folds=charter.folds,
            cases=sorted(cases_of_study(listed, folder)),
            host=config.host,
        )
        made = run_isolated("cross_validate", request, workdir=folder, on_progress=on_progress)
        return codec.from_json(CrossValidated, made)

    return SiteChoice(
        config.site,
        observer=observer,
        tracks=observers,
        publisher=publisher,
        status=start_status(publisher, config.status_interval_s, store, config.site),
        validate=validate,
    )


def _minutes(config: SiteConfig, policy: PolicyInForce) -> float | None:
    """Return how long a round's training may take here; None for as long as the charter lets it."""
    hours = policy.policy.max_round_hours
    limits = [config.local_minutes, None if hours is None else 60 * hours]
    return min((limit for limit in limits if limit is not None), default=None)


def _remembered_attendance(keyring: Keyring, site: str) -> Attendance | None:
    """Return whether a site wants to take part, as its operator has told this host."""
    remembered = keyring.memory.recall(f"site-{site}").get("attendance")
    return Attendance.wanted(site, **remembered) if remembered else None


def _state_of(observer: Observer) -> StudyState:
    return observer.state


def attend(config: SiteConfig, status: str, reason: str = "") -> bool:
    """Tell the aggregator that a site pauses, leaves or is back; return whether that is new.

    Args:
        config: of the site.
        status: ``present``, ``paused`` or ``left``.
        reason: for people.

    A process of the site that is at work on this host heeds it after the step it is in.

    Raises:
        PolicyError: the site would be back in a study that its policy does not allow.
        FedfsError: the study, the store or this host's key are not as they should be.
    """
    policy = policy_in_force(config.home, config.policy)
    store, vault = open_store(config.store), Vault(config.home)
    observers = open_tracks(store, site=config.site, skip=layout.STATUS_KINDS, vault=vault)
    charter = next(iter(observers.values())).state.charter
    if status == "present":
        require_no_clash(charter, policy.policy, source=policy.source)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    keyring.load_all(role)  # on another host than the site's nothing is remembered
    keyring.memory.remember(role, {"attendance": {"status": status, "reason": reason}})
    wanted, is_new = _remembered_attendance(keyring, config.site), False
    for observer in observers.values():
        action = decide.decide_site(observer.state, config.site, prepared=True, attendance=wanted)
        if isinstance(action, actions.SayAttendance):
            is_new = True
            gate = SiteGate(policy, config.site, partial(_state_of, observer))
            track_store = TrackStore(store, observer.track)
            publisher = publisher_on(track_store, observer, keyring, role, gate)
            with contextlib.suppress(ObjectExistsError):  # a process at work was faster
                publisher.publish(action.attendance)
    return is_new
