"""The aggregator's process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from fedfs.aggregator import Aggregator
from fedfs.assemble.parts import LOG, busy, note_seen, start_status
from fedfs.config import AggregatorConfig
from fedfs.learner import Report
from fedfs.lock import only_one
from fedfs.logfile import logged_to
from fedfs.loop import Outcome, run
from fedfs.making import strategy_of
from fedfs.nnunet.planner import NnUNetPlanner
from fedfs.observe import Observer, newest_charter, open_study
from fedfs.protocol import layout
from fedfs.publish import Publisher
from fedfs.report.publish import ReportPublisher
from fedfs.store import open_store
from fedfs.store.base import Store
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.vault import Vault
from fedfs.watch import Waiter


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
    note_seen(keyring, "aggregator", observer.state)
    publisher = Publisher(store, keyring.load_all("aggregator"), charter.study, clock=time.time)
    folder = folder_of(charter.study)
    with only_one(folder / "lock") as holder, logged_to(folder / LOG):
        if holder:
            return busy("the aggregator", holder, once=config.once)
        status = start_status(publisher, config, store, "")
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
            note_seen(keyring, "aggregator", observer.state)


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
