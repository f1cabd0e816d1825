"""Put a site's or the aggregator's process together from its configuration, and run it.

Here, and only here, the parts meet: store, keys, view, learner or planner, loop.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.aggregator import Aggregator
from fedfs.config import AggregatorConfig, JoinConfig, SiteConfig
from fedfs.errors import (
    FedfsError,
    MisplacedError,
    ObjectExistsError,
    SetupError,
    StudyError,
    UserError,
)
from fedfs.export import Exported, export_site
from fedfs.learner import Learner, Report
from fedfs.lock import only_one
from fedfs.logfile import logged_to
from fedfs.loop import Outcome, run
from fedfs.making import strategy_of
from fedfs.nnunet.allowlist import check_name, check_planner_options
from fedfs.nnunet.dataset import RawDataset, difference
from fedfs.nnunet.environment import NnUNetPaths, from_environment
from fedfs.nnunet.learner import NnUNetLearner
from fedfs.nnunet.planner import NnUNetPlanner, dataset_json
from fedfs.nnunet.settings import LearnerSettings, Planning
from fedfs.observe import MAX_MODEL_BYTES, Observer, fetch_payload, newest_charter, open_study
from fedfs.protocol import codec, layout, rounds
from fedfs.protocol.messages import Charter, JoinRequest
from fedfs.protocol.state import StudyState
from fedfs.publish import Publisher, StatusReporter
from fedfs.report.publish import ReportPublisher
from fedfs.sharing import asym_spec
from fedfs.site import Site, Wish, say_attendance
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.store.reporting import ReportingStore
from fedfs.study import join_study
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.signing import key_fingerprint
from fedfs.trust.vault import Vault
from fedfs.watch import Waiter

LOG = "log.txt"
"""The log of a process, in fedfs's own folder for its role."""
BROKEN = "broken-cases.json"
"""The cases that a site goes on without, in fedfs's own folder for it."""


def _look_as_site(store: Store, config: SiteConfig | JoinConfig) -> Observer:
    """Open a study as the site sees it, without what it decides nothing by."""
    return open_study(store, site=config.site, skip=layout.STATUS_KINDS, vault=Vault(config.home))


def make_learner(
    charter: Charter,
    site: str,
    dataset: str,
    paths: NnUNetPaths,
    *,
    device: str | None = None,
    num_processes: int = 8,
    own_planning: Mapping[str, Any] | None = None,
    pretrained: Path | None = None,
    alone: bool = False,
    allowed_trainers: tuple[str, ...] = (),
    skip_broken: bool = False,
) -> NnUNetLearner:
    """Return a site's learner, set as the charter says.

    Args:
        charter: the study.
        site: the site's name.
        dataset: ``DatasetXXX_NAME`` or its number.
        paths: nnU-Net's folders.
        device: ``cuda``, ``cpu``, ``mps``; None for the best there is.
        num_processes: for fingerprint, planning and preprocessing.
        own_planning: where the site's own plan is not as the charter says (mode ``asym``).
        pretrained: tensors that the site's own plan starts from.
        alone: its models are of this site's data alone: they lie in a folder of their own, to be
            used as ``nnUNet_results``.
        allowed_trainers: not nnunetv2's own, but allowed by this host's operator.
        skip_broken: go on without cases that cannot be used; else stop at the first.
    """
    folder = site_folder(paths, charter.study, site)
    if alone:
        paths = replace(paths, results=folder / "local-model")
    spec = asym_spec(charter)
    planning = None
    if spec is not None:
        said = {
            "planner": charter.nnunet.planner,
            "gpu_memory_target_gb": charter.nnunet.gpu_memory_target_gb,
            "target_spacing": charter.nnunet.target_spacing,
            "planner_options": charter.nnunet.planner_options,
            **(own_planning or {}),
        }
        planning = Planning(
            dataset_json=dataset_json(charter),
            dataset_name=charter.dataset.name,
            plans_name=charter.nnunet.plans_name,
            seed=charter.schedule.seed,
            pretrained=pretrained,
            alignment=spec.alignment,
            **said,
        )
    return NnUNetLearner(
        LearnerSettings(
            paths=paths,
            dataset=dataset,
            configuration=charter.nnunet.configuration,
            trainer=charter.nnunet.trainer,
            fold=charter.nnunet.fold,
            device=device,
            state_dir=folder / ("local-training" if alone else "training"),
            num_processes=num_processes,
            planning=planning,
            allowed_trainers=allowed_trainers,
            broken_list=folder / BROKEN,
            skip_broken=skip_broken,
        )
    )


def site_folder(paths: NnUNetPaths, study: str, site: str) -> Path:
    """Return fedfs's own folder for a site of a study, beside nnU-Net's models."""
    return paths.results / "fedfs" / study / site


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
    observer = _look_as_site(store, config)
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
    _note_seen(keyring, role, observer.state)
    publisher = Publisher(store, keyring.load_all(role), charter.study, clock=time.time)
    folder = folder_of(charter.study)
    with only_one(folder / "lock") as holder, logged_to(folder / LOG):
        if holder:
            return _busy(f"site {config.site!r}", holder, once=config.once)
        learner, _ = _site_parts(config, store, charter)
        alone = _site_parts(config, store, charter, alone=True)[0] if config.local_model else None
        status = StatusReporter(
            publisher,
            config.site,
            interval_s=config.status_interval_s,
            clock=time.time,
            listener=listener,
        )
        store.report = status.progress
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
            _note_seen(keyring, role, observer.state)
            for one in (learner, alone):
                if one is not None:
                    one.close()


def _note_seen(keyring: Keyring, role: str, state: StudyState) -> None:
    """Remember the newest charter and version, and notice a store that was rolled back.

    Raises:
        MisplacedError: it was.
    """
    charter, newest = newest_charter(state), state.newest
    keyring.note_charter(charter.number, state.digests[charter.key])
    sha256 = state.models[newest].weights_sha256 if newest >= 0 else ""
    keyring.note_version(role, newest, sha256)


def _busy(who: str, holder: str, *, once: bool) -> Outcome:
    """Return the outcome of a start that cron made while the one before is still at work.

    Raises:
        SetupError: a service was started twice.
    """
    text = f"{holder} on this host is at work as {who} already"
    if not once:
        raise SetupError(text, hint="stop it first, or let it work")
    return Outcome(worked=True, finished=False, text=text)


def attend(config: SiteConfig, wish: Wish) -> str:
    """Say that a site pauses, leaves or is back; return what was done in words.

    A process of the site that is at work on this host heeds it after the step it is in.

    Raises:
        FedfsError: the study, the store or this host's key are not as they should be.
    """
    store = open_store(config.store)
    observer = _look_as_site(store, config)
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
    observer = _look_as_site(store, config)
    charter = newest_charter(observer.state)
    if charter.mode != rounds.ASYM:
        raise UserError("in this study all sites have the same model", hint="leave out --site")
    learner, folder = _site_parts(config, store, charter)
    return export_site(
        observer, store, config.site, learner, folder, output,
        version=version, dataset_name=dataset_name, allowed_trainers=config.allowed_trainers,
    )  # fmt: skip


def _site_parts(
    config: SiteConfig, store: Store, charter: Charter, *, alone: bool = False
) -> tuple[Learner, Path]:
    """Return a site's learner, as it joined, and fedfs's folder for it."""
    remembered = Keyring(config.home, charter.study).recall(f"site-{config.site}")
    dataset = remembered.get("dataset")
    if not dataset:
        raise StudyError(
            f"this host does not know the dataset of site {config.site!r}",
            hint=f"run: fedfs site join {config.store} --site {config.site} --dataset ...",
        )
    paths = from_environment(os.environ)
    folder = site_folder(paths, charter.study, config.site)
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(
        charter,
        config.site,
        str(dataset),
        paths,
        device=config.device,
        num_processes=config.num_processes,
        own_planning=remembered.get("planning"),
        pretrained=_pretrained(store, charter, folder),
        alone=alone,
        allowed_trainers=config.allowed_trainers,
        skip_broken=config.skip_broken,
    )
    return learner, folder


def _pretrained(store: Store, charter: Charter, folder: Path) -> Path | None:
    """Return the weights that a site's own plan starts from; None if there are none."""
    if charter.pretrained is None or charter.mode != rounds.ASYM:
        return None
    cache = folder / "pretrained"
    return fetch_payload(store, charter.pretrained, cache, max_bytes=MAX_MODEL_BYTES)


def run_aggregator(config: AggregatorConfig, listener: Report) -> Outcome:
    """Run the aggregator until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.aggregator.Aggregator.step`.
    """
    store = ReportingStore(open_store(config.store), listener)

    def folder_of(study: str) -> Path:
        return config.folder or default_cache() / study

    observer = open_study(
        store,
        skip=(*layout.STATUS_KINDS, "join", "evaluation", "failure"),
        cache=lambda study: folder_of(study) / "messages",
        vault=Vault(config.home),
    )
    charter = newest_charter(observer.state)
    strategy_of(charter)  # a package that is missing is missed now, not after the first round
    keyring = Keyring(config.home, charter.study)
    _note_seen(keyring, "aggregator", observer.state)
    publisher = Publisher(store, keyring.load_all("aggregator"), charter.study, clock=time.time)
    folder = folder_of(charter.study)
    with only_one(folder / "lock") as holder, logged_to(folder / LOG):
        if holder:
            return _busy("the aggregator", holder, once=config.once)
        status = StatusReporter(
            publisher,
            "",
            interval_s=config.status_interval_s,
            clock=time.time,
            listener=listener,
        )
        store.report = status.progress
        aggregator = Aggregator(
            observer=observer,
            publisher=publisher,
            status=status,
            planner=NnUNetPlanner(folder / "plan", config.allowed_trainers),
            folder=folder,
            clock=time.time,
            keep_versions=config.keep_versions,
        )
        step = aggregator.step
        if config.report:
            step = _reporting(step, observer, store, config)
        try:
            with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
                return run(step, wait=waiter.wait, reset=waiter.reset, once=config.once)
        finally:
            _note_seen(keyring, "aggregator", observer.state)


def _reporting(
    step: Callable[[], Outcome], observer: Observer, store: Store, config: AggregatorConfig
) -> Callable[[], Outcome]:
    """Return a step that also publishes the report, after each version and in the end.

    A service ends when the report is complete, which the sites' last scores belong to.
    """
    pages = open_study(store, vault=Vault(config.home), scores=True)
    reports = ReportPublisher(pages, store, clock=time.time)
    reported = -1

    def step_and_report() -> Outcome:
        nonlocal reported
        outcome = step()
        newest = observer.state.newest
        if newest == reported and not outcome.finished:
            return outcome
        reported, late = newest, reports.publish()
        if outcome.finished and late and not config.once:
            text = f"waiting for the final scores of {late}"
            return Outcome(worked=False, finished=False, text=text)
        return outcome

    return step_and_report
