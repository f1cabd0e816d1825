"""The command ``privacy``: what has left a site, beside what its policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedfs.cli.command import command
from fedfs.cli.options import json_option, site_option, store_argument
from fedfs.cli.site_policy import show_rows
from fedfs.cli.terminal import show_json
from fedfs.protocol import values
from fedfs.roles.reader.units import format_size
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.protocol.state import StudyState
    from fedfs.roles.site.policy.comparison import Comparison
    from fedfs.roles.site.policy.file import PolicyInForce


@command(example="fedfs privacy /mnt/share/organ --site north")
@store_argument
@site_option(required=True, help="The site.")
@json_option
def privacy(store: StorePlace, *, name: str, as_json: bool) -> None:
    """List all that has left a site so far.

    With what it tells, and who can read it. On the site's own host its policy stands beside it.
    """
    from fedfs.exchange.read import open_tracks
    from fedfs.roles.reader.privacy import disclosures, never_left, readers
    from fedfs.roles.site.policy.side_by_side import rule_on
    from fedfs.roles.tracks import merged
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault
    from fedfs.trust.signing import key_fingerprint

    values.check_site(name)
    observers = open_tracks(open_store(store), site=name, vault=Vault(default_home()))
    items = merged(
        {t: disclosures(o.refresh(everything=True), name, o.sizes) for t, o in observers.items()}
    )
    state = next(iter(observers.values())).state
    charter, policy = state.charter, _policy_of(name, state)
    never = never_left(item for _, item in items)

    def rule(what: str) -> str | None:
        return None if policy is None else rule_on(what, policy.policy)

    if as_json:
        entries = [
            {**vars(item), "track": track, "policy": rule(item.what)} for track, item in items
        ]
        show_json(
            {
                "site": name,
                "study": charter.study,
                "coordinator": key_fingerprint(charter.coordinator_key),
                "disclosures": entries,
                "never": never,
                "readers": readers(charter),
                "policy": None if policy is None else policy.to_json(),
                "comparison": None if policy is None else _compared(name, state, policy),
            }
        )
        return
    total = format_size(sum(item.n_bytes for _, item in items))
    click.echo(f"What has left {name} in study {charter.study}: {total} on the store.\n")
    for track, item in items:
        size = f", {format_size(item.n_bytes)}" if item.n_bytes else ""
        where = f" of track {track}" if track else ""
        click.echo(click.style(item.what + where, bold=True) + f"  since {item.since}{size}")
        click.echo(f"    {item.amount}")
        click.echo(f"    tells: {item.tells}")
        click.echo(f"    can be read by {item.readers}")
        if policy is not None:
            click.echo(f"    policy: {rule(item.what)}")
    click.echo(f"\nNever leaves a site: {', '.join(never)}.")
    for sentence in readers(charter):
        click.echo(sentence)
    if policy is None:
        click.echo(f"The policy of {name} is known on its own host only.")
        return
    click.echo(f"\nThe site's policy ({policy.source}) beside the charter:\n")
    show_rows(_compared(name, state, policy))


def _policy_of(site: str, state: StudyState) -> PolicyInForce | None:
    """Return the policy of a site, on its own host; None on another, which has another policy."""
    from fedfs.roles.site.policy.file import policy_in_force
    from fedfs.trust.keyring import Keyring, default_home

    home = default_home()
    is_own = Keyring(home, state.charter.study).has(f"site-{site}")
    return policy_in_force(home) if is_own else None


def _compared(site: str, state: StudyState, policy: PolicyInForce) -> tuple[Comparison, ...]:
    from fedfs.roles.site.policy.comparison import announced_cases, compare

    return compare(state.charter, policy.policy, announced_cases(state, site))
