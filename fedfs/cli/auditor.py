"""Commands of whoever checks a study: ``verify`` and ``log``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fedfs.cli.store_option import store_argument
from fedfs.cli.terminal import show_finding, show_json
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedfs.roles.reader.finding import Finding


@click.command()
@store_argument
@click.option("--expect-key", help="Fingerprint of the coordinator's key, from another channel.")
@click.option("--no-recompute", is_flag=True, help="Signatures and hashes only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(store: StorePlace, *, expect_key: str | None, no_recompute: bool, as_json: bool) -> None:
    """Check a whole study again from its files alone.

    Every signature, hash and chain of versions; and every version is made again from the updates
    that its record names, and has to come out bit by bit the same. Exits with 1 if there is a
    problem.
    """
    from fedfs.errors import MisplacedError
    from fedfs.exchange.read import open_study, open_tracks
    from fedfs.roles.reader.audit import verify_choice, verify_study
    from fedfs.roles.reader.finding import PROBLEM
    from fedfs.store import open_store
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault
    from fedfs.trust.signing import key_fingerprint

    place = open_store(store)
    observers = open_tracks(place, vault=Vault(default_home()))
    charters = next(iter(observers.values())).state.charters
    first = key_fingerprint(charters[1].coordinator_key)
    if expect_key is not None and expect_key.replace(" ", "") != first.replace(" ", ""):
        raise MisplacedError(
            f"the study at {store} was begun with the key {first}, not with {expect_key}",
            hint="this is another study",
        )

    def found() -> Iterator[Finding]:
        for track, observer in observers.items():
            for one in verify_study(observer, observer.store, recompute=not no_recompute):
                yield replace(one, subject=f"{track} {one.subject}") if track else one
        if "" not in observers:
            yield from verify_choice(open_study(place, vault=Vault(default_home())), observers)

    findings = []
    for finding in found():
        findings.append(finding)
        if not as_json:
            show_finding(finding)
    n_problems = sum(finding.level == PROBLEM for finding in findings)
    if as_json:
        show_json({"findings": findings, "problems": n_problems})
    else:
        click.echo(f"\n{n_problems} problems" if n_problems else "\nno problem found")
    if n_problems:
        raise click.exceptions.Exit(1)


@click.command()
@store_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def log(store: StorePlace, *, as_json: bool) -> None:
    """Tell what happened in the study at STORE, in order: who did what, when."""
    from fedfs.exchange.read import open_tracks
    from fedfs.roles.reader.log import events
    from fedfs.roles.tracks import merged
    from fedfs.store import open_store

    observers = open_tracks(open_store(store))
    for observer in observers.values():
        observer.refresh(everything=True)
    of_tracks = merged({track: events(o.state) for track, o in observers.items()})
    found = [
        replace(event, what=f"{track}: {event.what}") if track else event
        for track, event in of_tracks
    ]
    if "" not in observers:
        found.sort(key=lambda event: event.at)
    if as_json:
        show_json({"events": found})
        return
    for event in found:
        click.echo(f"{event.at or '-':<20}  {event.who:<12}  {event.what}")
