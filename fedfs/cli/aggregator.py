"""Command of the aggregator."""

from __future__ import annotations

from pathlib import Path

import click

from fedfs.cli.store_option import store_argument
from fedfs.cli.terminal import (
    ProgressDisplay,
    allow_trainer_option,
    end_with,
    start_logging,
    tracks_option,
)
from fedfs.store import StorePlace


@click.command()
@store_argument
@click.option("--once", is_flag=True, help="Do what can be done now, then return (for cron).")
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Cache for tensors; may be deleted.",
)
@click.option(
    "--keep-versions",
    type=click.IntRange(min=1),
    help="Keep the payloads of so many versions and delete older ones; default: all.",
)
@click.option(
    "--report/--no-report",
    default=True,
    show_default=True,
    help="Publish a page for people after every version.",
)
@tracks_option
@allow_trainer_option
@click.option("--poll-interval", default=0.25, show_default=True, help="Shortest wait, seconds.")
@click.option("--max-poll-interval", default=5.0, show_default=True, help="Longest wait, seconds.")
@click.option("--poll-jitter", default=0.2, show_default=True, help="Random share of each wait.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
def aggregate(
    store: StorePlace,
    *,
    once: bool,
    work_dir: Path | None,
    keep_versions: int | None,
    report: bool,
    tracks: tuple[str, ...],
    allowed_trainers: tuple[str, ...],
    poll_interval: float,
    max_poll_interval: float,
    poll_jitter: float,
    verbose: bool,
) -> None:
    """Merge fingerprints, plan, publish the initial weights, close rounds, until finished."""
    from fedfs.roles.aggregator.config import AggregatorConfig
    from fedfs.roles.aggregator.run import run_aggregator
    from fedfs.roles.polling import WaitSettings
    from fedfs.trust.keyring import default_home

    config = AggregatorConfig(
        store=store,
        home=default_home(),
        folder=work_dir,
        keep_versions=keep_versions,
        report=report,
        tracks=tracks,
        allowed_trainers=allowed_trainers,
        once=once,
        wait=WaitSettings(poll_interval, max_poll_interval, poll_jitter),
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_aggregator(config, display)
    end_with(outcome, once=once)
