"""The command ``site scores``: scores of a site's validation cases, which stay at the site."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli import options
from fedfs.cli.command import OUTPUT, command, option
from fedfs.cli.terminal import show_json, show_table
from fedfs.roles.reader.units import format_count, format_size
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.roles.site.cases.scores import CaseRow

_COLUMNS = {
    "dice": ("Dice", 3),
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95 mm", 1),
    "f1": ("F1", 2),
    "sensitivity": ("sensitivity", 2),
    "false_positives": ("false pos.", 1),
    "volume_ml": ("predicted ml", 2),
    "reference_volume_ml": ("reference ml", 2),
    "calibration_error": ("calibration", 3),
}
"""Metric -> its heading, and digits after the point."""


@command(example="fedfs site scores /mnt/share/organ --site north -o scores.csv")
@options.store_argument
@options.this_site_option
@option("-o", "--output", type=options.FILE, section=OUTPUT, help="Write a .csv or .json file.")
@option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Show this model only: full, local, personal and so on; repeatable. Default: all.",
)
@options.some_tracks_option(
    help="Show this track only, in a study of several; repeatable. Default: all of them.",
)
@options.json_option
def scores(
    store: StorePlace,
    name: str,
    *,
    output: Path | None,
    variants: tuple[str, ...],
    tracks: tuple[str, ...],
    as_json: bool,
) -> None:
    """List scores of validation cases.

    Prints the metrics of each case, the worst first, for each model that was validated here. They
    are read from this host, and nothing of it is published.
    """
    from fedfs.roles.site.cases.scores import read_cases, write_cases
    from fedfs.roles.site.config import SiteConfig
    from fedfs.trust.keyring import default_home

    config = SiteConfig(store, name, default_home(), tracks=tracks)
    rows = read_cases(config, variants)
    if output is not None:
        write_cases(rows, output, config)
    if as_json:
        show_json({"site": name, "output": output, "cases": rows})
        return
    if output is not None:
        n_cases = format_count(len({row.case for row in rows}), "case")
        click.echo(f"wrote {output}, {format_size(output.stat().st_size)}: {n_cases}")
        click.echo("It names cases: keep it in the hospital.")
        return
    several = len({row.track for row in rows}) > 1
    models = itertools.groupby(rows, key=lambda row: (row.track, row.version, row.variant))
    for number, ((track, version, variant), of_model) in enumerate(models):
        if number:
            click.echo()
        where = f" of track {track}" if several else ""
        _show_model(variant, f"version {version}{where}", list(of_model))


def _show_model(variant: str, version: str, rows: list[CaseRow]) -> None:
    from fedfs.roles.reader.model_scores import model_name

    known = [metric for metric in _COLUMNS if any(metric in row.metrics for row in rows)]
    has_patients = any(row.patient for row in rows)
    click.echo(
        click.style(f"{variant}: {model_name(variant)}", bold=True)
        + f", {version}, {format_count(len(rows), 'case')}, the worst first"
    )
    show_table(
        ["case", *(["patient"] if has_patients else []), *(_COLUMNS[m][0] for m in known)],
        [
            [
                row.case,
                *([row.patient] if has_patients else []),
                *(
                    f"{row.metrics[m]:.{_COLUMNS[m][1]}f}" if m in row.metrics else None
                    for m in known
                ),
            ]
            for row in rows
        ],
    )
