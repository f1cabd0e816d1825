"""The command ``site policy``: what may leave this site, and whether a study asks for more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli import options
from fedfs.cli.command import command, option
from fedfs.cli.terminal import show_json, show_table
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.roles.site.policy.comparison import Comparison
    from fedfs.roles.site.policy.file import PolicyInForce

_EFFECTS = {"": "agrees", "less": "agrees, with less", "clash": "CLASH", "unknown": "?"}


@command(example="fedfs site policy --check /mnt/share/organ --site north")
@options.policy_option
@option("--template", "as_template", is_flag=True, help="Print a file to fill in; then exit.")
@option("--check", metavar="STORE", help="Compare it with the charter of the study at STORE.")
@options.site_option(help="With --check: the site, whose number of cases is then compared too.")
@options.json_option
def policy(
    *,
    policy: Path | None,
    as_template: bool,
    check: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Print what may leave this site.

    Whatever the charter of a study says. With --check every key is compared with a charter, and
    what clashes is explained; the exit code is then 3.
    """
    from fedfs.roles.site.policy.file import policy_in_force
    from fedfs.roles.site.policy.template import template
    from fedfs.trust.home import default_home

    if as_template:
        click.echo(template(), nl=False)
        return
    found = policy_in_force(default_home(), policy)
    if check is None:
        _show(found, as_json=as_json)
        return
    rows = _compared(found, StorePlace(check), name)
    if as_json:
        show_json({**found.to_json(), "comparison": rows})
    else:
        click.echo(f"policy: {found.source}\n")
        show_rows(rows)
    if any(row.effect == "clash" for row in rows):
        from fedfs.errors import PolicyError

        raise click.exceptions.Exit(PolicyError.exit_code)


def show_rows(rows: tuple[Comparison, ...]) -> None:
    """Print a charter beside a policy, and a sentence on each difference."""
    show_table(
        ("key", "policy", "charter", ""),
        [(r.key, r.policy, r.charter or "-", _EFFECTS.get(r.effect, r.effect)) for r in rows],
    )
    texts = [f"{row.key}: {row.text}." for row in rows if row.text]
    if texts:
        click.echo("\n" + "\n".join(texts))


def _compared(found: PolicyInForce, store: StorePlace, name: str | None) -> tuple[Comparison, ...]:
    from fedfs.exchange.read import open_study
    from fedfs.protocol import layout, values
    from fedfs.roles.site.policy.comparison import announced_cases, compare
    from fedfs.store import open_store

    if name is not None:
        values.check_site(name)
    state = open_study(open_store(store), site=name, skip=layout.STATUS_KINDS).state
    n_cases = None if name is None else announced_cases(state, name)
    return compare(state.charter, found.policy, n_cases)


def _show(found: PolicyInForce, *, as_json: bool) -> None:
    from fedfs.roles.site.policy.template import EXPLANATIONS

    if as_json:
        show_json(found.to_json())
        return
    click.echo(f"policy: {found.source}")
    for other in found.not_in_force:
        click.echo(f"not in force: {other}")
    click.echo()
    show_table(
        ("key", "value", ""),
        [
            (key, "any" if value is None else json.dumps(value), EXPLANATIONS[key])
            for key, value in found.policy.to_json().items()
        ],
    )
