"""Commands about this host's keys: show them, replace them, hand over the public part."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from fedfs.cli.command import group, option
from fedfs.cli.coordinator import coordinator_of
from fedfs.cli.options import (
    json_option,
    site_option,
    site_unless,
    store_argument,
    yes_option,
)
from fedfs.cli.terminal import confirm, show_facts, show_json, show_table
from fedfs.protocol import values
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.trust.keyring import Keyring


@group(example="fedfs key show /mnt/share/organ")
def key() -> None:
    """Manage this host's keys of a study."""


_site = site_option(help="The key of this site.")
_aggregator = option("--aggregator", is_flag=True, help="The aggregator's key.")
_coordinator = option("--coordinator", is_flag=True, help="The coordinator's key.")


def _role(name: str | None, *, aggregator: bool, coordinator: bool) -> str:
    if (name is not None) + aggregator + coordinator != 1:
        raise click.UsageError("Give one of --site NAME, --aggregator and --coordinator.")
    if name is not None:
        return f"site-{values.check_site(name)}"
    return "aggregator" if aggregator else "coordinator"


def _keyring(store: StorePlace) -> Keyring:
    """Return this host's keys of the study at a store."""
    from fedfs.roles.coordinator.begin import study_at
    from fedfs.trust.keyring import Keyring, default_home

    return Keyring(default_home(), study_at(store))


@key.command(example="fedfs key show /mnt/share/organ")
@store_argument
@json_option
def show(store: StorePlace, *, as_json: bool) -> None:
    """List this host's keys of the study.

    With the versions for which the study lets each of them sign.
    """
    from fedfs.exchange.read import open_study
    from fedfs.protocol.areas import NO_SITE
    from fedfs.trust import key_validity
    from fedfs.trust.keyring import Keyring, default_home
    from fedfs.trust.signing import key_fingerprint

    observer = open_study(open_store(store), site=NO_SITE)
    charters, charter = observer.state.charters, observer.state.charter
    keyring = Keyring(default_home(), charter.study)
    rows = []
    for role in keyring.roles():
        if role == "coordinator":
            counts = {c.coordinator_key: "signed charters" for c in charters.values()}
            counts |= {charter.coordinator_key: "signs charters"}
        else:
            found = key_validity.of_role(charters, role)
            counts = {
                one.public_key: f"from version {one.first}"
                + (f" to {one.last}" if one.last is not None else " on")
                for one in found
            }
        rows += [
            (role, key_fingerprint(one.public), counts.get(one.public, "not on the roster"))
            for one in keyring.load_all(role)
        ]
    if as_json:
        names = ("role", "fingerprint", "counts")
        show_json({"keys": [dict(zip(names, row, strict=True)) for row in rows]})
    elif rows:
        show_table(("role", "key fingerprint", "counts"), rows)
    else:
        click.echo("this host holds no key of the study")


@key.command("export-public", example="fedfs key export-public /mnt/share/organ --site north")
@store_argument
@_site
@_aggregator
@_coordinator
@json_option
def export_public(
    store: StorePlace, *, name: str | None, aggregator: bool, coordinator: bool, as_json: bool
) -> None:
    """Print the public keys of a role.

    The Ed25519 key in base64, and the age key to encrypt to.
    """
    name = site_unless(name, other_role=aggregator or coordinator)
    role = _role(name, aggregator=aggregator, coordinator=coordinator)
    keyring = _keyring(store)
    keys = {"public key": keyring.load(role).public}
    for identity in keyring.identities(role)[:1]:
        keys["encryption key"] = identity.recipient
    if as_json:
        show_facts(keys, as_json=True)
    else:
        click.echo("\n".join(keys.values()))


@key.command(example="fedfs key create /mnt/share/organ --aggregator")
@store_argument
@_site
@_aggregator
@option(
    "--external",
    metavar="COMMAND",
    help="Do not make a key: this program signs its standard input with the key --public-key.",
)
@option("--public-key", metavar="BASE64", help="Public part of the key that --external signs with.")
@json_option
def create(
    store: StorePlace,
    *,
    name: str | None,
    aggregator: bool,
    external: str | None,
    public_key: str | None,
    as_json: bool,
) -> None:
    """Make a key before it is needed.

    On the host of a new aggregator, or where a token holds the key.
    """
    from fedfs.trust.signing import key_fingerprint

    name = site_unless(name, other_role=aggregator)
    role = _role(name, aggregator=aggregator, coordinator=False)
    if (external is None) != (public_key is None):
        raise click.UsageError("--external and --public-key go together.")
    keyring = _keyring(store)
    if external and public_key:
        new = keyring.use_external(role, public_key, shlex.split(external))
    else:
        new = keyring.create(role)
    facts = {
        "role": role,
        "public key": new.public,
        "fingerprint": key_fingerprint(new.public),
        "encryption key": keyring.create_identity(role).recipient,
    }
    show_facts(facts, as_json=as_json)


@key.command(example="fedfs key rotate /mnt/share/organ --site north --yes")
@store_argument
@_site
@_aggregator
@_coordinator
@option("--lost", is_flag=True, help="The site's key before is lost.")
@option("--to", "public_key", metavar="BASE64", help="The new aggregator's public key.")
@option("--encryption-key", metavar="AGE", help="The new aggregator's encryption key.")
@yes_option
@json_option
def rotate(
    store: StorePlace,
    *,
    name: str | None,
    aggregator: bool,
    coordinator: bool,
    lost: bool,
    public_key: str | None,
    encryption_key: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Replace a key.

    What the old key has signed stays valid. At a site: makes the next key and asks the coordinator,
    who runs fedfs approve. With --aggregator and --coordinator, on the coordinator's host: amends
    the charter at once.
    """
    from fedfs.roles.coordinator.keys import replace_aggregator_key, replace_coordinator_key
    from fedfs.roles.site.join import ask_for_new_key
    from fedfs.roles.site.policy.file import policy_in_force
    from fedfs.trust.home import default_home
    from fedfs.trust.signing import key_fingerprint

    name = site_unless(name, other_role=aggregator or coordinator)
    role = _role(name, aggregator=aggregator, coordinator=coordinator)
    if (lost and name is None) or (public_key is not None and not aggregator):
        raise click.UsageError("--lost goes with --site, and --to with --aggregator.")
    if encryption_key is not None and public_key is None:
        raise click.UsageError("--encryption-key goes with --to.")
    confirm(f"Replace the key of {role} in the study at {store}?", yes=yes)
    if name is not None:
        keyring = _keyring(store)
        request = ask_for_new_key(
            open_store(store), keyring, name, is_lost=lost, clock=time.time,
            policy=policy_in_force(default_home()),
        )  # fmt: skip
        show_facts({"site": name, "new key": key_fingerprint(request.public_key)}, as_json=as_json)
        click.echo(
            f"\nThe coordinator runs:  fedfs approve {store} {name}"
            + (" --replace-key" if lost else "")
            + "\nUntil then the key before counts, if this host has it.",
            err=as_json,
        )
        return
    amender = coordinator_of(store)
    if aggregator:
        charter = replace_aggregator_key(amender, public_key, encryption_key)
        fingerprint, since = charter.aggregator_key, _versions(charter.aggregator_from_versions)
    else:
        charter = replace_coordinator_key(amender)
        fingerprint, since = charter.coordinator_key, f"charter {charter.number + 1}"
    show_facts(
        {"role": role, "new key": key_fingerprint(fingerprint), "counts from": since},
        as_json=as_json,
    )
    if aggregator and public_key is not None and charter.encryption:
        click.echo(
            "\nCopy aggregator.age of the host before to the new one, as aggregator.0.age:\n"
            "what is on the store already is encrypted for it, as is the strategy's memory.",
            err=as_json,
        )


def _versions(at: Mapping[str, int]) -> str:
    """Return the version of each track in words; of a single track without its name."""
    if len(at) == 1:
        return f"version {next(iter(at.values()))}"
    return ", ".join(f"version {version} of {track}" for track, version in at.items())
