"""The command ``status``: the state of a study, once or as it goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import OUTPUT, command, option
from fedfs.cli.evaluation_status import columns_of, models_line, rows_of
from fedfs.cli.metrics_file import MetricsFile, named_prom
from fedfs.cli.options import FILE, default_option, store_argument, track_option
from fedfs.cli.progress import LivePage
from fedfs.cli.simulation import stores_of_simulation
from fedfs.cli.terminal import make_table, show_json, show_pairs, show_table
from fedfs.errors import StoreUnavailableError
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.exchange.observer import Observer
    from fedfs.roles.reader.status import StudyStatus

_COLUMNS = (
    "site", "state", "cases", "shares", "doing", "last seen", "update", "pseudo Dice", "failures",
)  # fmt: skip
_MAX_REJECTED = 50
_TRACK_COLUMNS = ("track", "phase", "version", "Dice", "waiting for")


@command(example="fedfs status /mnt/share/organ --watch")
@store_argument
@track_option(help="Show this track; default: an overview of all.")
@option("--watch", is_flag=True, help="Go on looking until the study is finished.")
@default_option("--interval", default=5.0, metavar="SECONDS", help="Time between two looks.")
@option(
    "--prometheus",
    section=OUTPUT,
    type=FILE,
    callback=named_prom,
    metavar="FILE.prom",
    help="Write metrics for node_exporter's textfile collector, and print nothing.",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section=OUTPUT,
    help="Print JSON; with --watch, a line of JSON for each change.",
)
def status(
    store: StorePlace,
    *,
    track: str | None,
    watch: bool,
    interval: float,
    prometheus: Path | None,
    as_json: bool,
) -> None:
    """Show who does what, and who is waited for.

    With the round, what every site does, and since when.
    """
    from fedfs.exchange.visible import open_visible, tell_hidden
    from fedfs.trust.keyring import default_home

    if stores := stores_of_simulation(store.url):
        if prometheus:
            raise click.UsageError(f"--prometheus is of one study, and {store} is a simulation.")
        _show_each(stores, as_json=as_json)
        return
    metrics = MetricsFile(prometheus, str(store))
    only = [track] if track else ()
    with metrics.of_failure():
        observers = open_visible(open_store(store), default_home(), only=only, scores=watch)
        views = _views(observers)
    if watch:
        _watch(observers, interval, metrics, as_json=as_json)
        return
    metrics.write(views)
    if as_json:
        show_json(_of_study(views))
    if as_json or prometheus:
        return
    facts, columns, rows, notes = _page(views)
    show_pairs(facts)
    if rows:
        click.echo()
        show_table(columns, rows)
    for note in notes:
        click.echo(f"\n{note}")
    rejected = {key: why for view in views.values() for key, why in view.rejected.items()}
    if rejected:
        click.echo()
        show_table(("not accepted", "reason"), list(rejected.items())[:_MAX_REJECTED])
        if len(rejected) > _MAX_REJECTED:
            click.echo(f"... and {len(rejected) - _MAX_REJECTED:,} more: fedfs status --json")
    if hidden := tell_hidden(observers):
        click.echo(f"\n{hidden}")


def _show_each(stores: Sequence[Path], *, as_json: bool) -> None:
    """Print where the stores of a simulation are, and how each study stands."""
    from fedfs.exchange.read import open_tracks

    studies = {str(path): _views(open_tracks(open_store(str(path)))) for path in stores}
    if as_json:
        show_json({"studies": studies})
        return
    for path, views in studies.items():
        for view in views.values():
            click.echo(f"{path}\n  {_line(view)}")


def _views(observers: Mapping[str, Observer]) -> dict[str, StudyStatus]:
    from fedfs.roles.reader.status import summarize

    return {
        name: summarize(one.state, one.sizes, seen_by=one.site) for name, one in observers.items()
    }


def _of_study(views: Mapping[str, StudyStatus]) -> object:
    """Return what ``--json`` prints: the status, or those of several tracks."""
    return {"tracks": views} if len(views) > 1 else next(iter(views.values()))


def _watch(
    observers: Mapping[str, Observer], interval_s: float, metrics: MetricsFile, *, as_json: bool
) -> None:
    """Show the study as it goes on: a live page in a terminal, a line for each change elsewhere."""
    shown: dict[str, str] = {}
    with contextlib.closing(LivePage()) as page:
        while True:
            views = _views(observers)
            metrics.write(views)
            lines = {name: _line(view) for name, view in views.items()}
            if as_json:
                if lines != shown:
                    show_json(_of_study(views), in_one_line=True)
            elif page.is_live:
                page.show(*_drawn(*_page(views)))
            else:
                for name, line in lines.items():
                    if shown.get(name) != line:
                        where = f"{name}: " if len(views) > 1 else ""
                        click.echo(f"{time.strftime('%H:%M:%S')}  {where}{line}")
            shown = lines
            if all(_is_over(view) for view in views.values()):
                return
            time.sleep(interval_s)
            try:
                with metrics.of_failure():
                    for observer in observers.values():  # also what no decision needs: statuses
                        observer.refresh(everything=True)
            except StoreUnavailableError as error:
                shown = {}
                if not page.is_live:
                    click.echo(f"{error.local_text} Trying again.", err=as_json)


def _is_over(view: StudyStatus) -> bool:
    from fedfs.roles.reader.status import NOT_PLANNED

    is_done = view.phase in ("finished", NOT_PLANNED)
    return is_done and not view.waiting_for and not view.choice_waits_for


def _line(view: StudyStatus) -> str:
    dice = f", mean Dice {_dice(view)}" if _dice(view) else ""
    newest = f"version {view.version} of {view.rounds}{dice}"
    waits = f", waits for {', '.join(view.waiting_for)}" if view.waiting_for else ""
    best = f", best: {view.best}" if view.best else ""
    return f"{view.phase}, {models_line(view) if view.given_dice else newest}{waits}{best}"


def _dice(view: StudyStatus) -> str:
    """Return the newest mean Dice as text: of the full validation, once there is one."""
    of = ", of this site alone" if view.hidden else ""
    if view.validated_dice is not None:
        return f"{view.validated_dice:.4f} (full validation of version {view.version}{of})"
    if not view.mean_dice:
        return ""
    version, dice = list(view.mean_dice.items())[-1]
    return f"{dice:.4f} (pseudo Dice of version {version}{of})"


_Page = tuple[dict[str, str], tuple[str, ...], list[tuple[object, ...]], list[str]]


def _page(views: Mapping[str, StudyStatus]) -> _Page:
    """Return facts, columns and rows of a table, and notes: of one track, or of several."""
    from fedfs.protocol.messages import SUPPRESSED
    from fedfs.roles.reader.status import ASKS, NOT_PLANNED

    first = next(iter(views.values()))
    if len(views) == 1:
        notes = [f"{one.site}: {one.left_out}" for one in first.sites if one.left_out]
        notes += [f"scores of {one.site}: {SUPPRESSED}" for one in first.sites if one.suppressed]
        notes += _best_models(first)
        if first.given_dice:
            return _facts(first), columns_of(first), rows_of(first), [*notes, *_asking(first)]
        is_validated = first.validated_dice is not None
        columns = ["full Dice" if is_validated and c == "pseudo Dice" else c for c in _COLUMNS]
        return _facts(first), tuple(columns), _rows(first), [*notes, *_asking(first)]
    facts = _facts(first)
    optional = [name for name in ("trains only", "best") if name in facts]
    shown = ("study", "coordinator key", "mode", "rounds close", *optional)
    rows: list[tuple[object, ...]] = []
    for name, view in views.items():
        row = _facts(view)
        rows.append((name, row["phase"], row["version"], row["mean Dice"], row["waiting for"]))
    newest: dict[str, tuple[str, str]] = {}
    for name, view in views.items():
        for site in view.sites:
            if site.state == ASKS:
                continue
            note = f"{site.site} ({site.state}) on {name}: {site.activity}, {site.since}"
            newest[site.site] = max(newest.get(site.site, ("", "")), (site.since, note))
    notes = ["\n".join(note for _, note in newest.values())] if newest else []
    done = [view for view in views.values() if view.phase != NOT_PLANNED]
    if all(view.choice_waits_for for view in done):
        late = ", ".join(done[0].choice_waits_for)
        notes.append(f"all tracks are finished; the choice of the best waits for {late}")
    notes += _asking(first)
    return {name: facts[name] for name in shown}, _TRACK_COLUMNS, rows, notes


def _drawn(
    facts: Mapping[str, str],
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: Sequence[str],
) -> list[Any]:
    """Return facts, a table and notes as rich draws them."""
    from rich.table import Table
    from rich.text import Text

    pairs = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        pairs.add_row(Text(name, style="bold"), Text(value))
    return [pairs, Text(), make_table(columns, rows), *map(Text, notes)]


def _facts(view: StudyStatus) -> dict[str, str]:
    return {
        "study": view.study,
        "coordinator key": view.coordinator_fingerprint,
        "mode": view.mode,
        "phase": view.phase,
        **_newest(view),
        "aggregator": f"{view.aggregator} ({view.aggregator_since or '-'})",
        **({"helper": f"{view.helper} ({view.helper_since or '-'})"} if view.helper else {}),
        **({} if view.given_dice else {"rounds close": view.policy}),
        **({"trains only": view.trains} if view.trains else {}),
        "on the store": ", ".join(
            f"{size / 1e6:.1f} MB of {what}" for what, size in view.n_bytes.items()
        ),
        **_requests(view),
        **({"best": view.best} if view.best else {}),
        "waiting for": f"{', '.join(view.waiting_for)} since {view.waiting_since}"
        if view.waiting_for
        else "hidden"
        if view.hidden
        else "nobody",
    }


def _newest(view: StudyStatus) -> dict[str, str]:
    """Return the newest version and its Dice, or those of given models."""
    if view.given_dice:
        return {"models": models_line(view)}
    version = f"{view.version} of {view.rounds}" if view.version >= 0 else "none yet"
    return {"version": version, "mean Dice": _dice(view) or "-"}


def _asking(view: StudyStatus) -> list[str]:
    """Return the keys to compare by telephone before `fedfs approve`."""
    from fedfs.roles.reader.status import ASKS

    sites = [
        f"{site.site} asks to join, with the key {site.key_fingerprint}"
        for site in view.sites
        if site.state == ASKS
    ]
    helper = f"somebody asks to be the helper, with the key {view.helper_asks}"
    return [*sites, *([helper] if view.helper_asks else [])]


def _best_models(view: StudyStatus) -> list[str]:
    """Return a note on the model that each site would choose, where any has compared several."""
    from fedfs.roles.reader.model_scores import model_name
    from fedfs.roles.reader.report.format import format_choice

    lines = [
        f"best at {site.site}: {model_name(site.best.model)}, Dice {format_choice(site.best)}"
        for site in view.sites
        if site.best
    ]
    return ["\n".join(lines)] if lines else []


def _rows(view: StudyStatus) -> list[tuple[object, ...]]:
    scores = {
        s.site: s.mean_dice if view.validated_dice is None else s.validated_dice for s in view.sites
    }
    return [
        (
            s.site, s.state, s.n_cases,
            "-" if s.coverage is None else f"{s.coverage:.1%}", s.activity, s.since,
            "-" if s.last_update is None else f"from {s.last_update}",
            "-" if (dice := scores[s.site]) is None else f"{dice:.4f}", s.failures or "",
        )
        for s in view.sites
    ]  # fmt: skip


def _requests(view: StudyStatus) -> dict[str, str]:
    """Return the number of requests to a bucket, where they are counted."""
    if not view.requests:
        return {}
    total = sum(sum(counts.values()) for counts in view.requests.values())
    month = view.requests_per_month
    return {"requests": f"{total:,} so far" + (f", about {month:,} a month" if month else "")}
