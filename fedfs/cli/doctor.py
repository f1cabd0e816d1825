"""The command that looks whether a host is ready."""

import itertools
from pathlib import Path

import click

from fedfs.cli.command import command, option
from fedfs.cli.configuration import files_read, host_files
from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.cli.options import (
    json_option,
    num_processes_option,
    site_option,
    site_unless,
    store_argument,
)
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import show_findings
from fedfs.protocol import values
from fedfs.roles.reader.finding import OK, PROBLEM, Finding
from fedfs.store import StorePlace


@command(example="fedfs doctor /mnt/share/organ --site north")
@store_argument
@site_option(help="The site that runs here.")
@option("-d", "--dataset", help="Before joining: try DatasetXXX_NAME (or id); reads all cases.")
@num_processes_option(help="Workers that read the cases of --dataset.")
@option("--aggregator", is_flag=True, help="The aggregator runs here.")
@json_option
def doctor(
    store: StorePlace,
    *,
    name: str | None,
    dataset: str | None,
    num_processes: int,
    aggregator: bool,
    as_json: bool,
) -> None:
    """Check this host and its store.

    Tries what this host's role does: store, permissions, clock, disk, speed, nnU-Net, dataset.
    With --dataset before a site joins: does the dataset agree with the study, can all cases be
    used, is there room for them? Nothing is published.
    Exits with 1 if there is a problem. What is written to try the store is removed again.
    """
    from fedfs.roles.doctor.examine import examine
    from fedfs.trust.keyring import default_home

    name = site_unless(name, other_role=aggregator)
    if aggregator == (name is not None):
        raise click.UsageError("Give --site NAME or --aggregator.")
    site = None if name is None else values.check_site(name)
    if dataset is not None and site is None:
        raise click.UsageError("--dataset goes with --site.")
    with ProgressDisplay() as display:
        found = examine(
            store, default_home(), site=site, dataset=dataset, num_processes=num_processes,
            on_progress=display,
        )  # fmt: skip
        local = [_settings(), *([] if site is None else [_site_policy(default_home())])]
        n_problems = show_findings(itertools.chain(local, found), as_json=as_json)
    if n_problems:
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _settings() -> Finding:
    """Return the configuration files that were read, or where they would be."""
    read = files_read(click.get_current_context())
    if read:
        return Finding("settings", OK, f"read from {', '.join(map(str, read))}")
    places = " and ".join(map(str, host_files()))
    return Finding("settings", OK, f"no configuration file; looked for {places}")


def _site_policy(home: Path) -> Finding:
    """Return where the site's policy comes from, or why it cannot be used."""
    from fedfs.errors import PolicyError
    from fedfs.roles.site.policy.file import policy_in_force

    try:
        return Finding("site policy", OK, policy_in_force(home).source)
    except PolicyError as error:
        return Finding("site policy", PROBLEM, str(error), error.hint)
