"""The command that looks whether a host is ready."""

from __future__ import annotations

import click

from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.cli.options import json_option, store_argument
from fedfs.cli.terminal import show_finding, show_json
from fedfs.store import StorePlace


@click.command()
@store_argument
@click.option("--site", "name", help="The site that runs here.")
@click.option("--aggregator", is_flag=True, help="The aggregator runs here.")
@json_option
def doctor(store: StorePlace, *, name: str | None, aggregator: bool, as_json: bool) -> None:
    """Try what this host's role does: store, permissions, clock, disk, speed, nnU-Net, dataset.

    Exits with 1 if there is a problem. What is written to try the store is removed again.
    """
    from fedfs.protocol import layout
    from fedfs.roles.doctor.examine import examine
    from fedfs.roles.reader.finding import PROBLEM
    from fedfs.trust.keyring import default_home

    if aggregator == (name is not None):
        raise click.UsageError("give --site NAME or --aggregator")
    findings = []
    site = None if name is None else layout.check_site(name)
    for finding in examine(store, default_home(), site=site):
        findings.append(finding)
        if not as_json:
            show_finding(finding)
    n_problems = sum(finding.level == PROBLEM for finding in findings)
    if as_json:
        show_json({"findings": findings, "problems": n_problems})
    if n_problems:
        raise click.exceptions.Exit(EXIT_PROBLEM)
