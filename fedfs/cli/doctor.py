"""The command that looks whether a host is ready."""

import itertools

import click

from fedfs.cli.command import command, option
from fedfs.cli.configuration import files_read, host_files
from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.cli.options import json_option, site_option, site_unless, store_argument
from fedfs.cli.terminal import show_findings
from fedfs.protocol import layout
from fedfs.roles.reader.finding import OK, Finding
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

    name = site_unless(name, other_role=aggregator)
    if aggregator == (name is not None):
        raise click.UsageError("give --site NAME or --aggregator")
    site = None if name is None else layout.check_site(name)
    findings = itertools.chain([_settings()], examine(store, default_home(), site=site))
    if show_findings(findings, as_json=as_json):
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _settings() -> Finding:
    """Return the configuration files that were read, or where they would be."""
    read = files_read(click.get_current_context())
    if read:
        return Finding("settings", OK, f"read from {', '.join(map(str, read))}")
    places = " and ".join(map(str, host_files()))
    return Finding("settings", OK, f"no configuration file; looked for {places}")
