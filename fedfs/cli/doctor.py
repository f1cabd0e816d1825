"""The command that looks whether a host is ready."""

import click

from fedfs.cli.command import command, option
from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.cli.options import json_option, site_option, store_argument
from fedfs.cli.terminal import show_findings
from fedfs.protocol import layout
from fedfs.store import StorePlace


@command(example="fedfs doctor /mnt/share/organ --site north")
@store_argument
@site_option(help="The site that runs here.")
@option("--aggregator", is_flag=True, help="The aggregator runs here.")
@json_option
def doctor(store: StorePlace, *, name: str | None, aggregator: bool, as_json: bool) -> None:
    """Check this host and its store.

    Tries what this host's role does: store, permissions, clock, disk, speed, nnU-Net, dataset.
    Exits with 1 if there is a problem. What is written to try the store is removed again.
    """
    from fedfs.roles.doctor.examine import examine
    from fedfs.trust.keyring import default_home

    if aggregator == (name is not None):
        raise click.UsageError("give --site NAME or --aggregator")
    site = None if name is None else layout.check_site(name)
    if show_findings(examine(store, default_home(), site=site), as_json=as_json):
        raise click.exceptions.Exit(EXIT_PROBLEM)
