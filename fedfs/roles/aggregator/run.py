"""The aggregator's process."""

import contextlib
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.make_version import strategy_of
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_study, open_tracks
from fedfs.exchange.secure_scores import sets_elsewhere
from fedfs.learner import OnProgress
from fedfs.nnunet.plan.planner import NnUNetPlanner
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import chosen_tracks
from fedfs.roles.aggregator.best_configuration import AggregatorChoice
from fedfs.roles.aggregator.config import AggregatorConfig
from fedfs.roles.aggregator.step import Aggregator
from fedfs.roles.log_format import set_log_fields
from fedfs.roles.loop import Outcome, run
from fedfs.roles.polling import Waiter
from fedfs.roles.process import guard_against_rollback, hold_tracks, publisher_on, start_status
from fedfs.roles.reader.report import publish
from fedfs.roles.step import AFTER_TRACKS, Role
from fedfs.roles.tracks import at_once
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.store.prefix import TrackStore
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.recipients import Vault


def run_aggregator(config: AggregatorConfig, listener: OnProgress) -> Outcome:
    """Run the aggregator until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.roles.aggregator.step.Aggregator.step`.
    """
    store = open_store(config.store)

    def folder_of(study: str) -> Path:
        return (config.folder or default_cache()) / study

    observers = open_tracks(
        store,
        skip=(*layout.STATUS_KINDS, "join", "evaluation", "failure"),
        cache=lambda study: folder_of(study) / "messages",
        vault=Vault(config.home),
    )
    charter = next(iter(observers.values())).state.charter
    names = chosen_tracks(charter, config.tracks)
    only = charter.tracks[0].name if len(charter.tracks) == 1 else ""
    set_log_fields(study=charter.study, track=only)
    strategy_of(charter)  # a package that is missing is missed now, not after the first round
    keyring = Keyring(config.home, charter.study)
    base = folder_of(charter.study)
    folders = {name: base / "tracks" / name for name in names}
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(
            hold_tracks("the aggregator", charter, folders, base, once=config.once)
        )
        if busy:
            return busy
        stack.enter_context(guard_against_rollback(keyring, "aggregator", observers, names))
        aggregators = {
            name: _make_aggregator(
                config,
                store,
                observers,
                name,
                names=names,
                keyring=keyring,
                listener=listener,
                folder=folders[name],
            )
            for name in names
        }

        for aggregator in aggregators.values():
            aggregator.check_memory()

        def is_done(name: str) -> bool:
            state = observers[name].state if name in aggregators else observers[name].refresh()
            return state.finished is not None or participation.lacks_configuration(state)

        workers: dict[str, Role[Any]] = dict(aggregators)
        if charter.chooses and names[0] == charter.tracks[0].name:  # one process does
            workers[AFTER_TRACKS] = _make_choice(config, store, observers, keyring, listener)
        step = at_once(charter, workers, is_done)
        if config.report:
            step = _reporting(step, observers, names, store, config)
        with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
            return run(step, wait=waiter.wait, reset=waiter.reset, once=config.once)


def _make_aggregator(
    config: AggregatorConfig,
    place: Store,
    observers: Mapping[str, Observer],
    name: str,
    *,
    names: Collection[str],
    keyring: Keyring,
    listener: OnProgress,
    folder: Path,
) -> Aggregator:
    """Return the aggregator of one track of a study."""
    observer = observers[name]
    store = ReportingStore(TrackStore(place, observer.track), listener)
    publisher = publisher_on(store, observer, keyring, "aggregator", OTHER_ROLES)
    return Aggregator(
        observer=observer,
        publisher=publisher,
        status=start_status(publisher, config.status_interval_s, store, ""),
        planner=NnUNetPlanner(folder / "plan", config.host),
        folder=folder,
        clock=time.time,
        before=[observers[track] for track in observer.state.charter.track.after],
        keep_versions=config.keep_versions,
        elsewhere=partial(sets_elsewhere, observers, name, worked_on=names),
    )


def _make_choice(
    config: AggregatorConfig,
    place: Store,
    observers: Mapping[str, Observer],
    keyring: Keyring,
    listener: OnProgress,
) -> AggregatorChoice:
    """Return what the aggregator does after all tracks of a study."""
    observer = open_study(place, skip=layout.STATUS_KINDS, vault=Vault(config.home))
    store = ReportingStore(TrackStore(place, observer.track), listener)
    publisher = publisher_on(store, observer, keyring, "aggregator", OTHER_ROLES)
    return AggregatorChoice(
        observer=observer,
        tracks=observers,
        publisher=publisher,
        status=start_status(publisher, config.status_interval_s, store, ""),
    )


def _reporting(
    step: Callable[[], Outcome],
    observers: Mapping[str, Observer],
    names: Sequence[str],
    store: Store,
    config: AggregatorConfig,
) -> Callable[[], Outcome]:
    """Return a step that also publishes the report of a track, after each version and in the end.

    The process that has the study's first track publishes the overview of all. A service ends when
    the reports are complete, which the sites' last scores belong to.
    """
    is_single = len(observers) == 1
    has_overview = not is_single and names[0] == next(iter(observers))
    followed = open_tracks(
        store, only=() if has_overview else names, vault=Vault(config.home), scores=True
    )
    reports = {
        name: publish.report_publisher(
            one, store if is_single else TrackStore(store, one.track), clock=time.time
        )
        for name, one in followed.items()
        if name in names
    }
    foreign = [name for name in followed if name not in names]
    overview = publish.overview_publisher(followed, foreign, store, clock=time.time)
    reported = dict.fromkeys(names, -1)

    def step_and_report() -> Outcome:
        outcome, late = step(), {}
        for name in names:
            newest = observers[name].state.newest
            if newest != reported[name] or outcome.finished:
                reported[name] = newest
                published = reports[name].publish()
                state = followed[name].state
                late[name] = publish.sites_without_final_scores(state) if published else []
        if late and has_overview:
            overview.publish()
        missing = [
            ", ".join(sites) if is_single else f"{name} {', '.join(sites)}"
            for name, sites in late.items()
            if sites
        ]
        if outcome.finished and missing and not config.once:
            text = f"waiting for the final scores of {'; '.join(missing)}"
            return Outcome(worked=False, finished=False, text=text)
        return outcome

    return step_and_report
