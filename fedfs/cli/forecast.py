"""The forecast of ``fedfs simulate --trace FILE --forecast``: its options, and what it prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.options import read_number
from fedfs.cli.terminal import show_json, show_table
from fedfs.errors import UserError
from fedfs.roles.toml_file import TomlFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedfs.simulation.virtual.forecast import Forecast, Rules
    from fedfs.simulation.virtual.trace import Trace


def read_trace(place: str, changes: Mapping[str, Any]) -> Trace:
    """Return the trace in a file, or of that name among those that come with fedfs.

    Args:
        place: path, or name.
        changes: name -> value, of its study, instead of those of the file.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    from fedfs.simulation.virtual.forecast import TRACES
    from fedfs.simulation.virtual.trace import parse_trace

    path = Path(place)
    shipped = {one.stem: one for one in sorted(TRACES.glob("*.toml"))}
    if not path.exists() and place in shipped:
        path = shipped[place]
    if not path.exists():
        raise UserError(
            f"There is no trace {place}.", hint=f"give a file, or one of {', '.join(shipped)}"
        )
    file = TomlFile.read(path)
    trace = parse_trace(file.table, file.at)
    return dataclasses.replace(trace, study=dataclasses.replace(trace.study, **changes))


def rules_of(policies: Sequence[str], encodings: Sequence[str]) -> list[Rules]:
    """Return the rules that options name, each policy with each encoding.

    Args:
        policies: like ``quorum,sites=6,grace=adaptive``.
        encodings: of updates, like ``topk,fraction=0.05``; of versions too, behind a slash.

    Raises:
        click.UsageError: an option of one is no number.
    """
    from fedfs.simulation.virtual.forecast import Rules

    out = []
    for policy in policies:
        for encoding in encodings:
            updates, _, versions = encoding.partition("/")
            options = {**_named("policy", policy), **_named("encoding", updates)}
            if versions:
                options |= _named("model_encoding", versions)
            out.append(Rules(f"{policy} {encoding}", options))
    return out


def _named(option: str, text: str) -> dict[str, Any]:
    name, *pairs = text.split(",")
    try:
        return {option: name, f"{option}_options": dict(map(read_number, pairs))}
    except ValueError as error:
        raise click.UsageError(f"{text!r} of --{option.replace('_', '-')}: {error}") from error


def show_forecasts(trace: Trace, forecasts: Sequence[Forecast], *, as_json: bool) -> None:
    """Print forecasts."""
    if as_json:
        show_json({"title": trace.title, "forecasts": [one.as_json() for one in forecasts]})
        return
    click.echo(trace.title)
    show_table(
        ("rules", "ends", "hours", "beyond compute", "rounds", "longest", "missed", "GB"),
        [_line(one) for one in forecasts],
    )
    for one in forecasts:
        if not one.ends:
            click.echo(f"{one.rules}: never ends; {one.waiting_for}")
    for one in forecasts:
        click.echo(f"\n{one.rules}")
        heading = (
            "site", "cases", "in model", "computes", "transfers", "waits", "holds up", "missed",
            "late", "MB up", "MB down",
        )  # fmt: skip
        show_table(heading, [_site_line(name, one) for name in one.sites])


def _line(one: Forecast) -> tuple[str, ...]:
    beyond = 100 * (one.hours / one.slowest_h - 1) if one.slowest_h else 0.0
    return (
        one.rules,
        one.ends or "never",
        f"{one.hours:.1f}",
        f"{beyond:.0f} %",
        str(one.rounds),
        f"{max(one.round_hours, default=0):.1f} h",
        str(one.missed),
        f"{one.moved_mb / 1e3:.2f}",
    )


def _site_line(name: str, of: Forecast) -> tuple[str, ...]:
    site = of.sites[name]
    hours = site.computing_h, site.transferring_h, site.waiting_h, site.holding_up_h
    return (
        name,
        f"{site.cases_percent:.0f} %",
        f"{site.model_percent:.0f} %",
        *(f"{one:.1f} h" for one in hours),
        str(site.missed),
        str(site.late),
        f"{site.up_mb:,.0f}",
        f"{site.down_mb:,.0f}",
    )
