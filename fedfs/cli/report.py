"""The command ``report``: a study as a page, a table, curves or JSON."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from fedfs.cli.command import OUTPUT, command, option
from fedfs.cli.options import (
    FILE,
    FOLDER,
    default_option,
    store_argument,
    track_option,
)
from fedfs.cli.terminal import show_json, write_whole
from fedfs.protocol import layout
from fedfs.roles.reader.units import format_count, format_size
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.roles.reader.report.data import Report


@command(example="fedfs report /mnt/share/organ -o report.html")
@store_argument
@default_option("-o", "--output", default="report.html", type=FILE, help="The HTML file.")
@track_option(help="Report of this track; default: a file for each, with its name.")
@option("--csv", "csv_file", type=FILE, help="Also write the numbers by version and site.")
@option("--tensorboard", type=FOLDER, help="Also write the curves for tensorboard --logdir.")
@option("--mlflow", metavar="URI", help="Also log the curves as runs of MLflow at this address.")
@option("--published", is_flag=True, help="Fetch the aggregator's newest page instead.")
@option("--json", "as_json", is_flag=True, section=OUTPUT, help="Print JSON instead.")
def report(
    store: StorePlace,
    output: Path,
    *,
    track: str | None,
    csv_file: Path | None,
    tensorboard: Path | None,
    mlflow: str | None,
    published: bool,
    as_json: bool,
) -> None:
    """Write a report as one HTML file.

    Anybody can open it in a browser. Of several tracks, an overview, and a file for each, which it
    links. A site that may not read what others publish gets the whole page with --published; it is
    not signed.
    """
    from fedfs.exchange.visible import open_visible, tell_hidden
    from fedfs.protocol.messages import utc
    from fedfs.roles.reader.report.data import collect
    from fedfs.roles.reader.report.html import render_overview
    from fedfs.roles.reader.report.overview import overview
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault

    if published:
        if as_json or csv_file or tensorboard or mlflow:
            raise click.UsageError("--published fetches a page, and nothing else.")
        _fetch_published(store, output, track)
        return
    home = default_home()
    observers = open_visible(
        open_store(store), home, only=[track] if track else (), vault=Vault(home)
    )
    reports = {
        name: collect(observer.refresh(everything=True), observer.sizes, seen_by=observer.site)
        for name, observer in observers.items()
    }
    if hidden := tell_hidden(observers):
        reports = {n: replace(r, facts={**r.facts, "hidden": hidden}) for n, r in reports.items()}
        click.echo(f"{hidden} See also: fedfs report --published", err=True)
    is_several = len(reports) > 1
    view = overview(reports, next(iter(observers.values())).state) if is_several else None
    if as_json:
        show_json({"overview": view, "tracks": reports} if view else next(iter(reports.values())))
    elif view:
        pages = {name: quote(_of_track(output, name).name) for name in reports}
        _write_page(output, render_overview(view, pages, made_at=utc(time.time())))
    page = None if as_json else output
    for name, one in reports.items():
        track = name if is_several else None
        _write(one, track, output=page, csv_file=csv_file, events=tensorboard)
    if mlflow is not None:
        from fedfs.roles.reader.report.mlflow_runs import log_runs

        runs = log_runs(reports, mlflow)
        click.echo(f"logged {format_count(len(runs), 'run')} of MLflow", err=as_json)


def _fetch_published(store: StorePlace, output: Path, track: str | None) -> None:
    """Write the newest pages that the aggregator put into the store."""
    from fedfs.exchange.read import open_tracks
    from fedfs.protocol.areas import NO_SITE
    from fedfs.roles.reader.report.fetch import newest_page

    place = open_store(store)
    observers = open_tracks(place, only=[track] if track else (), site=NO_SITE)
    folders = {name: f"{one.track.prefix}{layout.REPORTS}" for name, one in observers.items()}
    if len(next(iter(observers.values())).state.charter.tracks) == 1:
        folders = {}  # the only track's page is the study's
    if track in folders:
        _write_page(output, newest_page(place, folders[track]))
        return
    page = newest_page(place)
    for name, folder in folders.items():
        path = _of_track(output, name)
        page = page.replace(f"../../{folder}", quote(path.name))
        _write_page(path, newest_page(place, folder))
    _write_page(output, page)


def _write(
    content: Report,
    track: str | None,
    *,
    output: Path | None,
    csv_file: Path | None,
    events: Path | None,
) -> None:
    """Write the report of a track; beside those of others, with its name."""
    from fedfs.protocol.messages import utc
    from fedfs.roles.reader.report.html import render
    from fedfs.roles.reader.report.tables import write_csv, write_models_csv

    if csv_file is not None:
        path = _of_track(csv_file, track)
        with write_whole(path) as file:
            write_csv(content, file)
        click.echo(f"wrote {path}", err=output is None)
        if content.comparison.models:
            of_models = path.with_stem(f"{path.stem}-models")
            with write_whole(of_models) as file:
                write_models_csv(content.comparison, file)
            click.echo(f"wrote {of_models}", err=output is None)
    if events is not None:
        from fedfs.roles.reader.report.events import write_events

        write_events(content, events / track if track else events, now_s=time.time())
    if output is not None:
        _write_page(_of_track(output, track), render(content, made_at=utc(time.time())))
        _show_comparison(content, track)


def _show_comparison(content: Report, track: str | None) -> None:
    """Print what is shown of models beside each other, in words."""
    for paragraph in content.comparison.paragraphs:
        click.echo(f"\n{track}: {paragraph}" if track else f"\n{paragraph}")


def _of_track(path: Path, track: str | None) -> Path:
    return path.with_stem(f"{path.stem}-{track}") if track else path


def _write_page(path: Path, page: str) -> None:
    with write_whole(path) as file:
        file.write(page)
    click.echo(f"wrote {path}, {format_size(len(page.encode()))}")
