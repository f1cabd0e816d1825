"""Commands of the helper of secure sums, and of the coordinator about it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from fedfs.cli import options
from fedfs.cli.command import STORAGE, group, option
from fedfs.cli.exit_codes import end_with
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import confirm, show_facts, show_json, show_pairs, start_logging
from fedfs.store import StorePlace, open_store


@group(example="fedfs helper run /mnt/share/organ --once")
def helper() -> None:
    """Help with sums that show no single update.

    Another organisation than the coordinator's. It needs neither nnU-Net nor a GPU.
    """


@helper.command(example="fedfs helper join /mnt/share/organ")
@options.store_argument
@option(
    "--expect-key",
    metavar="FINGERPRINT",
    help="Fingerprint of the coordinator's key, as told by telephone.",
)
@options.json_option
def join(store: StorePlace, *, expect_key: str | None, as_json: bool) -> None:
    """Ask to be a study's helper.

    Makes this host's keys for it. The coordinator compares the key's fingerprint by telephone, and
    approves it.
    """
    from fedfs.roles.helper.join import join_as_helper
    from fedfs.trust.keyring import default_home
    from fedfs.trust.signing import key_fingerprint

    charter, request = join_as_helper(
        open_store(store), default_home(), clock=time.time, expected_key=expect_key
    )
    facts = {
        "study": charter.study,
        "helper key": key_fingerprint(request.public_key),
        "coordinator key": key_fingerprint(charter.coordinator_key),
    }
    show_facts(facts, as_json=as_json)
    if not as_json:
        click.echo("\nCompare both keys with the coordinator by telephone.")
        click.echo(f"The coordinator runs:  fedfs helper approve {store}")
        click.echo(f"Then here:             fedfs helper run {store}")


@helper.command(example="fedfs helper approve /mnt/share/organ")
@options.store_argument
@option("--another", is_flag=True, help="Replace the helper there is by another organisation.")
@options.json_option
def approve(store: StorePlace, *, another: bool, as_json: bool) -> None:
    """Let a helper help, as coordinator.

    Compare the key's fingerprint with the helper by telephone. With --another, sums that are not
    made yet are given up, and sites train that round again.
    """
    from fedfs.cli.coordinator import coordinator_of
    from fedfs.roles.coordinator.helper import approve_helper
    from fedfs.trust.signing import key_fingerprint

    coordinator = coordinator_of(store)
    approved = approve_helper(coordinator, another=another)
    fingerprint = key_fingerprint(approved.public_key) if approved is not None else None
    if as_json:
        show_json({"charter": coordinator.charter.number, "approved": fingerprint})
    elif fingerprint is None:
        click.echo("nobody new to approve")
    else:
        show_pairs({"charter": str(coordinator.charter.number), "helper key": fingerprint})


@helper.command(example="fedfs helper rotate /mnt/share/organ --yes")
@options.store_argument
@options.yes_option
@options.json_option
def rotate(store: StorePlace, *, yes: bool, as_json: bool) -> None:
    """Replace the helper's keys.

    Makes the next ones on this host, which the keys before endorse, and asks the coordinator. Keep
    the old ones: they decrypt what was encrypted for them.
    """
    from fedfs.roles.helper.join import ask_for_new_keys
    from fedfs.trust.keyring import default_home
    from fedfs.trust.signing import key_fingerprint

    confirm(f"Replace the helper's keys in the study at {store}?", yes=yes)
    request = ask_for_new_keys(open_store(store), default_home(), clock=time.time)
    show_facts({"new key": key_fingerprint(request.public_key)}, as_json=as_json)
    click.echo(
        f"\nThe coordinator runs:  fedfs helper approve {store}\nUntil then the key before counts.",
        err=as_json,
    )


@helper.command(example="fedfs helper run /mnt/share/organ --once")
@options.store_argument
@options.once_option
@option(
    "--work-dir",
    type=options.FOLDER,
    section=STORAGE,
    help="Cache of all studies here; may be deleted.",
)
@options.keep_versions_option(
    help="Keep the sums for so many versions and delete older ones; default: all."
)
@options.tracks_option
@options.wait_options
@options.verbose_option(help="Log everything.")
@options.log_format_option
@options.json_option
def run(
    store: StorePlace,
    *,
    once: bool,
    work_dir: Path | None,
    verbose: bool,
    log_format: str,
    as_json: bool,
    **others: Any,
) -> None:
    """Answer the aggregator's requests.

    Adds up the masks of the updates that it names, unless the sum would show what it should hide,
    until the study is finished.
    """
    from fedfs.roles.helper.config import HelperConfig
    from fedfs.roles.helper.run import run_helper
    from fedfs.trust.keyring import default_home

    config = HelperConfig(store, default_home(), work_dir, once=once, **others)
    start_logging(verbose=verbose, log_format=log_format)
    with ProgressDisplay() as display:
        outcome = run_helper(config, display)
    end_with(outcome, once=once, as_json=as_json)
