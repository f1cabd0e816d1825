"""Command of the aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli.exit_codes import end_with
from fedfs.cli.options import (
    allow_trainer_option,
    keep_versions_option,
    once_option,
    store_argument,
    tracks_option,
    verbose_option,
    wait_options,
)
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import start_logging
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.roles.polling import WaitSettings


@click.command()
@store_argument
@once_option
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Cache for tensors; may be deleted.",
)
@keep_versions_option("Keep the payloads of so many versions and delete older ones; default: all.")
@click.option(
    "--report/--no-report",
    default=True,
    show_default=True,
    help="Publish a page for people after every version.",
)
@tracks_option
@allow_trainer_option
@wait_options
@verbose_option()
def aggregate(
    store: StorePlace,
    *,
    once: bool,
    work_dir: Path | None,
    keep_versions: int | None,
    report: bool,
    tracks: tuple[str, ...],
    allowed_trainers: tuple[str, ...],
    wait: WaitSettings,
    verbose: bool,
) -> None:
    """Merge fingerprints, plan, publish the initial weights, close rounds, until finished."""
    from fedfs.nnunet.system.environment import HostSettings
    from fedfs.roles.aggregator.config import AggregatorConfig
    from fedfs.roles.aggregator.run import run_aggregator
    from fedfs.trust.keyring import default_home

    config = AggregatorConfig(
        store=store,
        home=default_home(),
        folder=work_dir,
        keep_versions=keep_versions,
        report=report,
        tracks=tracks,
        host=HostSettings(allowed_trainers=allowed_trainers),
        once=once,
        wait=wait,
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_aggregator(config, display)
    end_with(outcome, once=once)
