"""Command of the aggregator."""

from pathlib import Path
from typing import Any

from fedfs.cli import options
from fedfs.cli.command import OUTPUT, STORAGE, command, option
from fedfs.cli.exit_codes import end_with
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import start_logging
from fedfs.store import StorePlace


@command(example="fedfs aggregate /mnt/share/organ --once")
@options.store_argument
@options.once_option
@option(
    "--work-dir",
    type=options.FOLDER,
    section=STORAGE,
    help="Cache of all studies here; may be deleted.",
)
@options.keep_versions_option(
    help="Keep the payloads of so many versions and delete older ones; default: all."
)
@options.default_option(
    "--report/--no-report",
    default=True,
    section=OUTPUT,
    help="Publish a page for people after every version.",
)
@options.tracks_option
@options.allow_trainer_option
@options.wait_options
@options.verbose_option(help="Log everything.")
@options.log_format_option
@options.json_option
@options.takes_host
def aggregate(
    store: StorePlace,
    *,
    once: bool,
    work_dir: Path | None,
    verbose: bool,
    log_format: str,
    as_json: bool,
    **others: Any,
) -> None:
    """Plan, then make each version of the model.

    Merges the fingerprints of all sites, plans, publishes the initial weights and makes a version
    of the updates of each round, until the study is finished.
    """
    from fedfs.roles.aggregator.config import AggregatorConfig
    from fedfs.roles.aggregator.run import run_aggregator
    from fedfs.trust.keyring import default_home

    config = AggregatorConfig(store, default_home(), work_dir, once=once, **others)
    start_logging(verbose=verbose, log_format=log_format)
    with ProgressDisplay() as display:
        outcome = run_aggregator(config, display)
    end_with(outcome, once=once, as_json=as_json)
