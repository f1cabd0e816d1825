"""The helper's process."""

import contextlib
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fedfs.errors import StudyError
from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_tracks
from fedfs.exchange.secure_scores import sets_elsewhere
from fedfs.learner import OnProgress
from fedfs.protocol.messages import chosen_tracks
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.helper.config import HelperConfig
from fedfs.roles.helper.memory import ROLE, AnsweredUpdates
from fedfs.roles.helper.step import Helper
from fedfs.roles.log_format import set_log_fields
from fedfs.roles.loop import Outcome, run
from fedfs.roles.polling import Waiter
from fedfs.roles.process import guard_against_rollback, hold_tracks, publisher_on, start_status
from fedfs.roles.tracks import at_once
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.store.prefix import TrackStore
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.recipients import Vault

NOT_NEEDED = ("evaluation", "failure", "fingerprint", "site-plan", "cross-validation", "choice")


def run_helper(config: HelperConfig, listener: OnProgress) -> Outcome:
    """Run the helper until the study is finished, or (``once``) until it has to wait.

    Raises:
        StudyError: this host has not asked to be the helper, or another one is.
        FedfsError: see :meth:`fedfs.roles.step.Role.step`.
    """
    store = open_store(config.store)
    observers = open_tracks(
        store,
        site=HELPER_SITE,
        skip=("status", "aggregator-status", *NOT_NEEDED),
        vault=Vault(config.home),
    )
    charter = next(iter(observers.values())).state.charter
    names = chosen_tracks(charter, config.tracks)
    only = charter.tracks[0].name if len(charter.tracks) == 1 else ""
    set_log_fields(study=charter.study, track=only)
    keyring = Keyring(config.home, charter.study)
    if not keyring.has(ROLE):
        raise StudyError(
            "This host has not asked to be the helper of this study.",
            hint="run: fedfs helper join STORE",
        )
    base = (config.folder or default_cache()) / charter.study / ROLE
    folders = {name: base / "tracks" / name for name in names}
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(
            hold_tracks("the helper", charter, folders, base, once=config.once)
        )
        if busy:
            return busy
        stack.enter_context(guard_against_rollback(keyring, ROLE, observers, names))
        helpers = {
            name: _make_helper(config, store, observers, name, keyring, listener, folders)
            for name in names
        }
        step = at_once(charter, helpers, lambda name: _is_done(observers, name))
        with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
            return run(step, wait=waiter.wait, reset=waiter.reset, once=config.once)


def _is_done(observers: Mapping[str, Observer], name: str) -> bool:
    return observers[name].state.finished is not None


def _make_helper(
    config: HelperConfig,
    place: Store,
    observers: Mapping[str, Observer],
    name: str,
    keyring: Keyring,
    listener: OnProgress,
    folders: Mapping[str, Path],
) -> Helper:
    """Return the helper of one track of a study."""
    observer = observers[name]
    store = ReportingStore(TrackStore(place, observer.track), listener)
    publisher = publisher_on(store, observer, keyring, ROLE, OTHER_ROLES)
    return Helper(
        observer=observer,
        publisher=publisher,
        status=start_status(publisher, config.status_interval_s, store, HELPER_SITE),
        memory=AnsweredUpdates(keyring.memory, observer.track.name),
        identities=lambda: keyring.identities(ROLE),
        folder=folders[name],
        keep_versions=config.keep_versions,
        elsewhere=partial(sets_elsewhere, observers, name, worked_on=folders),
    )
