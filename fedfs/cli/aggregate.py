"""Command of the aggregator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from fedfs.cli.terminal import ProgressDisplay, start_logging
from fedfs.errors import EXIT_WAITING


@click.command()
@click.argument("store")
@click.option("--once", is_flag=True, help="Do what can be done now, then return (for cron).")
@click.option("--work-dir", type=click.Path(path_type=Path, file_okay=False),
              help="Cache for tensors; may be deleted.")  # fmt: skip
@click.option("--poll-interval", default=0.25, show_default=True, help="Shortest wait, seconds.")
@click.option("--max-poll-interval", default=5.0, show_default=True, help="Longest wait, seconds.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
def aggregate(store: str, *, once: bool, work_dir: Path | None, poll_interval: float,
              max_poll_interval: float, verbose: bool) -> None:  # fmt: skip
    """Merge fingerprints, plan, publish the initial weights, close rounds, until finished."""
    from fedfs.config import AggregatorConfig
    from fedfs.trust.keyring import default_home
    from fedfs.watch import WaitSettings

    config = AggregatorConfig(
        store_url=store,
        home=default_home(),
        folder=work_dir,
        once=once,
        wait=WaitSettings(interval_s=poll_interval, max_interval_s=max_poll_interval),
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_aggregator(config, display)
    click.echo(outcome.text)
    if once and not outcome.worked and not outcome.finished:
        raise click.exceptions.Exit(EXIT_WAITING)


def run_aggregator(config: Any, listener: Any) -> Any:
    """Build an aggregator from its configuration and run it."""
    import random

    from fedfs.aggregator import Aggregator
    from fedfs.loop import run
    from fedfs.nnunet.planner import NnUNetPlanner
    from fedfs.observe import newest_charter, open_study
    from fedfs.publish import Publisher, StatusReporter
    from fedfs.store import open_store
    from fedfs.trust.keyring import Keyring, default_cache
    from fedfs.watch import Waiter

    store = open_store(config.store_url)
    observer = open_study(store, skip=("aggregator-status", "status", "join", "evaluation"))
    charter = newest_charter(observer.state)
    keyring = Keyring(config.home, charter.study)
    keyring.note_charter(charter.number, observer.state.digests[charter.key])
    publisher = Publisher(store, keyring.load("aggregator"), charter.study, clock=time.time)
    folder = config.folder or default_cache() / charter.study
    status = StatusReporter(
        publisher, "", interval_s=config.status_interval_s, clock=time.time, listener=listener
    )
    member = Aggregator(
        observer=observer, publisher=publisher, status=status, folder=folder,
        planner=NnUNetPlanner(folder / "plan"),
    )  # fmt: skip
    with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
        return run(member.step, wait=waiter.wait, reset=waiter.reset, once=config.once)
