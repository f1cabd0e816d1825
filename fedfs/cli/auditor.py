"""Commands of whoever checks a study: ``verify`` and ``log``."""

from __future__ import annotations

import click

from fedfs.cli.place import store_argument
from fedfs.cli.terminal import show_json, show_level
from fedfs.store import StorePlace


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
    from fedfs.audit import PROBLEM, verify_study
    from fedfs.errors import MisplacedError
    from fedfs.observe import open_study
    from fedfs.store import open_store
    from fedfs.trust.keyring import default_home
    from fedfs.trust.signing import key_fingerprint
    from fedfs.trust.vault import Vault

    place = open_store(store)
    observer = open_study(place, vault=Vault(default_home()))
    first = key_fingerprint(observer.state.charters[1].coordinator_key)
    if expect_key is not None and expect_key.replace(" ", "") != first.replace(" ", ""):
        raise MisplacedError(
            f"the study at {store} was begun with the key {first}, not with {expect_key}",
            hint="this is another study",
        )
    findings = []
    for finding in verify_study(observer, place, recompute=not no_recompute):
        findings.append(finding)
        if not as_json:
            show_level(finding.level, finding.what, finding.text)
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
    from fedfs.chronicle import events
    from fedfs.observe import open_study
    from fedfs.store import open_store

    observer = open_study(open_store(store))
    observer.refresh(everything=True)
    found = events(observer.state)
    if as_json:
        show_json({"events": found})
        return
    for event in found:
        click.echo(f"{event.at or '-':<20}  {event.who:<12}  {event.what}")
