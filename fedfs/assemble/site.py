"""A site's process, and what its operator does: join, say that it is away, take its model."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

from fedfs.assemble.parts import (
    LOG,
    busy,
    look_as_site,
    make_learner,
    note_seen,
    site_folder,
    site_parts,
    start_status,
)
from fedfs.config import JoinConfig, SiteConfig
from fedfs.errors import (
    FedfsError,
    MisplacedError,
    ObjectExistsError,
    UserError,
)
from fedfs.export import Exported, export_site
from fedfs.learner import Report
from fedfs.lock import only_one
from fedfs.logfile import logged_to
from fedfs.loop import Outcome, run
from fedfs.nnunet.allowlist import check_name, check_planner_options
from fedfs.nnunet.dataset import RawDataset, difference
from fedfs.nnunet.environment import from_environment
from fedfs.observe import newest_charter, open_study
from fedfs.protocol import codec, rounds
from fedfs.protocol.messages import Charter, JoinRequest
from fedfs.protocol.state import StudyState
from fedfs.publish import Publisher
from fedfs.site import Site, Wish, say_attendance
from fedfs.store import open_store
from fedfs.store.reporting import ReportingStore
from fedfs.study import join_study
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import key_fingerprint
from fedfs.trust.vault import Vault
from fedfs.watch import Waiter


def join(config: JoinConfig, listener: Report) -> tuple[Charter, JoinRequest]:
    """Ask to be admitted to a study; a request that is refused leaves nothing behind.

    Raises:
        SetupError, DatasetError: nnU-Net's folders or the dataset are not as they should be.
        MisplacedError: the study is not led by the expected key.
        StudyError: there is no study, or the name belongs to another key.
    """
    store = open_store(config.store)
    paths = from_environment(os.environ)
    raw = RawDataset.listed(paths, config.dataset)
    observer = look_as_site(store, config)
    charter = newest_charter(observer.state)
    coordinator = key_fingerprint(charter.coordinator_key)
    expected = config.expected_key
    if expected is not None and expected.replace(" ", "") != coordinator.replace(" ", ""):
        raise MisplacedError(
            f"the study at {config.store} is led by the key {coordinator}, not by {expected}",
            hint="do not join; tell the coordinator",
        )
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    _check_planning(config, charter, observer.state, keyring)
    learner = make_learner(
        charter, config.site, raw.name, paths,
        num_processes=config.num_processes, skip_broken=config.skip_broken,
    )  # fmt: skip
    differs = difference(codec.to_json(charter.dataset), raw.dataset_json)
    has_announced = observer.state.n_cases(config.site) is not None
    if config.skip_broken and not differs and not has_announced:
        learner.examine(listener)
    is_new = not keyring.has(role)
    key = keyring.load_or_create(role)
    try:
        request = join_study(
            observer,
            Publisher(store, key, charter.study, clock=time.time),
            config.site,
            learner,
            difference=differs,
            encryption_key=keyring.identity(role).recipient,
        )
    except FedfsError:
        if is_new:
            keyring.discard(role)
        raise
    planning = dict(config.planning) or keyring.recall(role).get("planning", {})
    keyring.remember(role, {"dataset": raw.name, "planning": planning})
    return charter, request


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
    if charter.mode != rounds.ASYM:
        raise UserError(
            "in this study the aggregator plans for all sites: this site cannot plan for itself",
            hint="leave out the options about planning",
        )
    if config.site in state.site_plans:
        before = keyring.recall(f"site-{config.site}").get("planning")
        if before != codec.to_json(dict(config.planning)):
            raise UserError(
                f"site {config.site!r} has published its plan already",
                hint="it cannot plan otherwise in this study",
            )
    check_planner_options(config.planning.get("planner_options", {}))
    if "planner" in config.planning:
        check_name("planner", config.planning["planner"])


def run_site(config: SiteConfig, listener: Report) -> Outcome:
    """Run a site until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.site.Site.step`.
    """
    store = ReportingStore(open_store(config.store), listener)
    paths = from_environment(os.environ)

    def folder_of(study: str) -> Path:
        return site_folder(paths, study, config.site)

    observer = open_study(
        store,
        site=config.site,
        skip=("status",),
        cache=lambda study: folder_of(study) / "messages",
        vault=Vault(config.home),
    )
    charter = newest_charter(observer.state)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    note_seen(keyring, role, observer.state)
    publisher = Publisher(store, keyring.load_all(role), charter.study, clock=time.time)
    folder = folder_of(charter.study)
    with only_one(folder / "lock") as holder, logged_to(folder / LOG):
        if holder:
            return busy(f"site {config.site!r}", holder, once=config.once)
        learner, _ = site_parts(config, store, charter)
        alone = site_parts(config, store, charter, alone=True)[0] if config.local_model else None
        status = start_status(publisher, config, store, config.site)
        site = Site(
            config.site,
            observer=observer,
            publisher=publisher,
            status=status,
            learner=learner,
            folder=folder,
            local_minutes=config.local_minutes,
            keep_versions=config.keep_versions,
            alone=alone,
            wish=lambda: Wish(**keyring.recall(role).get("attendance", {})),
        )
        try:
            with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
                return run(site.step, wait=waiter.wait, reset=waiter.reset, once=config.once)
        finally:
            note_seen(keyring, role, observer.state)
            for one in (learner, alone):
                if one is not None:
                    one.close()


def attend(config: SiteConfig, wish: Wish) -> str:
    """Say that a site pauses, leaves or is back; return what was done in words.

    A process of the site that is at work on this host heeds it after the step it is in.

    Raises:
        FedfsError: the study, the store or this host's key are not as they should be.
    """
    store = open_store(config.store)
    observer = look_as_site(store, config)
    charter = newest_charter(observer.state)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    publisher = Publisher(store, keyring.load_all(role), charter.study, clock=time.time)
    keyring.remember(role, {"attendance": vars(wish)})
    action = rounds.decide_site(observer.state, config.site, prepared=True, attendance=wish.word)
    if not isinstance(action, rounds.SayAttendance):
        return f"site {config.site!r} is {wish.word} already"
    with contextlib.suppress(ObjectExistsError):  # a process at work was faster
        say_attendance(publisher, config.site, action, wish.reason)
    return f"site {config.site!r} is {wish.word}"


def export_own(
    config: SiteConfig, output: Path, *, version: int | None, dataset_name: str | None
) -> Exported:
    """Write a site's own model of a study of the mode ``asym``; at the site.

    Raises:
        FedfsError: see :func:`fedfs.export.export_site`.
    """
    store = open_store(config.store)
    observer = look_as_site(store, config)
    charter = newest_charter(observer.state)
    if charter.mode != rounds.ASYM:
        raise UserError("in this study all sites have the same model", hint="leave out --site")
    learner, folder = site_parts(config, store, charter)
    return export_site(
        observer, store, config.site, learner, folder, output,
        version=version, dataset_name=dataset_name, allowed_trainers=config.allowed_trainers,
    )  # fmt: skip
