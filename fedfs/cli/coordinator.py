"""Commands of the coordinator: ``approve``, ``pause``, ``close-round`` and others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from fedfs.cli.command import argument, command, option
from fedfs.cli.options import complete_sites, json_option, store_argument, yes_option, yes_option_if
from fedfs.cli.terminal import confirm, show_json, show_table
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.roles.coordinator.amend import Coordinator


def coordinator_of(store: StorePlace) -> Coordinator:
    """Return the coordinator of the study at a store, with the keys of this host."""
    from fedfs.roles.coordinator.amend import Coordinator
    from fedfs.trust.keyring import default_home

    return Coordinator(open_store(store), default_home(), clock=time.time)


@command(example="fedfs approve /mnt/share/organ north south")
@store_argument
@argument("sites", nargs=-1, shell_complete=complete_sites, help="Names of the sites.")
@option("--all", "everybody", is_flag=True, help="Approve every site that has asked.")
@option("--replace-key", is_flag=True, help="Also approve a site that lost its key or was removed.")
@json_option
def approve(
    store: StorePlace, sites: tuple[str, ...], *, everybody: bool, replace_key: bool, as_json: bool
) -> None:
    """Admit sites to the study.

    Compare the key fingerprints with each site by telephone.
    A site that has asked for another key (fedfs key rotate) goes on with that one.
    """
    from fedfs.roles.coordinator.roster import approve_sites
    from fedfs.trust.signing import key_fingerprint

    if everybody == bool(sites):
        raise click.UsageError("Name the sites to approve, or give --all.")
    coordinator = coordinator_of(store)
    entries = approve_sites(coordinator, None if everybody else sites, replace_keys=replace_key)
    rows = [(entry.site, key_fingerprint(entry.public_key)) for entry in entries]
    if as_json:
        show_json({"charter": coordinator.charter.number, "approved": dict(rows)})
    elif rows:
        show_table(("approved", "key fingerprint, to compare by telephone"), rows)
    else:
        click.echo("nobody new to approve")


def _roster_command(name: str, state: str, text: str, *, needs_yes: bool = False) -> click.Command:
    """Return a command that sets the state of sites on the roster."""
    example = f"fedfs {name} /mnt/share/organ north{' --yes' if needs_yes else ''}"

    @command(name, help=text, example=example)
    @store_argument
    @argument(
        "sites",
        nargs=-1,
        required=True,
        shell_complete=complete_sites,
        help="Names of the sites.",
    )
    @yes_option_if(needs_yes)
    @json_option
    def change(
        store: StorePlace, sites: tuple[str, ...], *, as_json: bool, yes: bool = True
    ) -> None:
        from fedfs.roles.coordinator.roster import set_state

        confirm(f"Remove {', '.join(sites)} from the study at {store}?", yes=yes)
        charter = set_state(coordinator_of(store), sites, state)
        roster = {entry.site: entry.state for entry in charter.roster}
        if as_json:
            show_json({"charter": charter.number, "roster": roster})
            return
        states = ", ".join(f"{site}: {state}" for site, state in roster.items())
        click.echo(f"charter {charter.number}  {states}")

    return change


pause = _roster_command(
    "pause",
    "paused",
    """Let rounds go on without sites.

They come back with fedfs resume.""",
)
resume = _roster_command("resume", "active", "Let paused sites take part again.")
remove = _roster_command(
    "remove",
    "removed",
    """Remove sites from the study.

What they send from now on is refused; what they have published stays.""",
    needs_yes=True,
)


@command("close-round", example="fedfs close-round /mnt/share/organ --yes")
@store_argument
@option("--track", metavar="NAME", help="The track, in a study of several.")
@yes_option
@json_option
def close_round(store: StorePlace, *, track: str | None, yes: bool, as_json: bool) -> None:
    """Close a round with the updates there are.

    If all were refused, the next version is equal to the one before, and sites that have been
    repaired train from that. Use it where a round waits for what will not come.
    """
    from fedfs.roles.coordinator import rounds

    confirm(
        f"Close the round at {store} now? Updates that are not there yet are left out.", yes=yes
    )
    charter = rounds.close_round(coordinator_of(store), track)
    if as_json:
        show_json({"charter": charter.number, "closed_rounds": charter.closed_rounds})
        return
    closed = ", ".join(
        f"version {version} of {name}" for name, version in charter.closed_rounds.items()
    )
    click.echo(f"charter {charter.number}  closes the round of {closed}")
