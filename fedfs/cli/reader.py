"""Commands for everybody who can read the store: ``status``, ``report`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli.place import store_argument
from fedfs.cli.terminal import (
    LivePage,
    allow_trainer_option,
    show_json,
    show_pairs,
    show_table,
    size_text,
    written,
)
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.observe import Observer
    from fedfs.status import StudyStatus


_COLUMNS = (
    "site", "state", "cases", "shares", "doing", "last seen", "update", "Dice", "failures",
)  # fmt: skip


@click.command()
@store_argument
@click.option("--watch", is_flag=True, help="Go on looking until the study is finished.")
@click.option("--interval", default=5.0, show_default=True, help="Seconds between two looks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(store: StorePlace, *, watch: bool, interval: float, as_json: bool) -> None:
    """Show who is where: the round, what every site does, who is waited for and since when."""
    from fedfs.observe import open_study
    from fedfs.status import summarize
    from fedfs.store import open_store

    observer = open_study(open_store(store), scores=watch)
    if watch and not as_json:
        _watch(observer, interval)
        return
    view = summarize(observer.state, observer.sizes)
    if as_json:
        show_json(view)
        return
    show_pairs(_facts(view))
    if view.sites:
        click.echo()
        show_table(_COLUMNS, _rows(view))
    for one in view.sites:
        if one.left_out:
            click.echo(f"\n{one.site}: {one.left_out}")
    if view.rejected:
        click.echo()
        show_table(("not accepted", "because it"), list(view.rejected.items()))


def _watch(observer: Observer, interval_s: float) -> None:
    """Show the study as it goes on: a live page in a terminal, a line for each change elsewhere."""
    import time

    from fedfs.errors import StoreUnavailableError
    from fedfs.status import summarize

    said = ""
    with LivePage() as page:
        while True:
            view = summarize(observer.state, observer.sizes)
            line = _line(view)
            if page.is_live:
                notes = [f"{one.site}: {one.left_out}" for one in view.sites if one.left_out]
                page.show(_facts(view), _COLUMNS, _rows(view), notes)
            elif line != said:
                click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
            said = line
            if view.phase == "finished" and not view.waiting_for:
                return
            time.sleep(interval_s)
            try:
                observer.refresh()
            except StoreUnavailableError as error:
                said = f"{error}; trying again"
                if not page.is_live:
                    click.echo(said)


def _line(view: StudyStatus) -> str:
    scores = list(view.mean_dice.items())
    dice = f", mean Dice {scores[-1][1]:.4f} of version {scores[-1][0]}" if scores else ""
    waits = f", waits for {', '.join(view.waiting_for)}" if view.waiting_for else ""
    return f"{view.phase}, version {view.version} of {view.rounds}{dice}{waits}"


def _facts(view: StudyStatus) -> dict[str, str]:
    scores = list(view.mean_dice.items())
    return {
        "study": view.study,
        "coordinator key": view.coordinator_fingerprint,
        "mode": view.mode,
        "phase": view.phase,
        "version": f"{view.version} of {view.rounds}" if view.version >= 0 else "none yet",
        "mean Dice": f"{scores[-1][1]:.4f} (version {scores[-1][0]})" if scores else "-",
        "aggregator": f"{view.aggregator} ({view.aggregator_since or '-'})",
        "rounds close": view.policy,
        "on the store": ", ".join(
            f"{size / 1e6:.1f} MB of {what}" for what, size in view.n_bytes.items()
        ),
        **_requests(view),
        "waiting for": f"{', '.join(view.waiting_for)} since {view.waiting_since}"
        if view.waiting_for
        else "nobody",
    }


def _rows(view: StudyStatus) -> list[tuple[object, ...]]:
    return [
        (
            s.site, s.state, s.n_cases,
            "-" if s.coverage is None else f"{s.coverage:.1%}", s.activity, s.since,
            "-" if s.last_update is None else f"from {s.last_update}",
            "-" if s.mean_dice is None else f"{s.mean_dice:.4f}", s.failures or "",
        )
        for s in view.sites
    ]  # fmt: skip


def _requests(view: StudyStatus) -> dict[str, str]:
    """What a bucket is asked, where that is counted."""
    if not view.requests:
        return {}
    total = sum(sum(counts.values()) for counts in view.requests.values())
    month = view.requests_per_month
    return {"requests": f"{total:,} so far" + (f", about {month:,} a month" if month else "")}


@click.command()
@store_argument
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The HTML file.",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the numbers by version and site.",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write the curves for tensorboard --logdir.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
def report(
    store: StorePlace,
    output: Path,
    *,
    csv_file: Path | None,
    tensorboard: Path | None,
    as_json: bool,
) -> None:
    """Write the study at STORE as one HTML file that anybody can open in a browser."""
    import time

    from fedfs.observe import open_study
    from fedfs.protocol.messages import utc
    from fedfs.report import collect, render, write_csv
    from fedfs.store import open_store
    from fedfs.trust.keyring import default_home
    from fedfs.trust.vault import Vault

    observer = open_study(open_store(store), vault=Vault(default_home()))
    observer.refresh(everything=True)
    found = collect(observer.state, observer.sizes)
    if csv_file is not None:
        with written(csv_file) as file:
            write_csv(found, file)
    if tensorboard is not None:
        from fedfs.report.events import write_events

        write_events(found, tensorboard, now_s=time.time())
    if as_json:
        show_json(found)
        return
    page = render(found, made_at=utc(time.time()))
    with written(output) as file:
        file.write(page)
    click.echo(f"wrote {output}, {size_text(len(page.encode()))}")


@click.command()
@store_argument
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder to use as nnUNet_results.")  # fmt: skip
@click.option("--version", type=int, help="Global version; default: the newest.")
@click.option("--dataset-name", help="DatasetXXX_NAME; default: the charter's.")
@click.option("--site", help="Mode asym, on the site's host: the model of this site.")
@allow_trainer_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(store: StorePlace, output: Path, *, version: int | None, dataset_name: str | None,
           site: str | None, allowed_trainers: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """Write a model as an nnU-Net results folder that nnUNetv2_predict takes.

    The global model, or in a study of the mode asym, at a site, that site's own.
    """
    from fedfs.export import export_version
    from fedfs.store import open_store

    if site is None:
        from fedfs.trust.keyring import default_home
        from fedfs.trust.vault import Vault

        done = export_version(
            open_store(store),
            output,
            version=version,
            dataset_name=dataset_name,
            vault=Vault(default_home()),
            allowed_trainers=allowed_trainers,
        )
    else:
        from fedfs.assemble import export_own
        from fedfs.config import SiteConfig
        from fedfs.protocol import layout
        from fedfs.trust.keyring import default_home

        config = SiteConfig(
            store, layout.check_site(site), default_home(), allowed_trainers=allowed_trainers
        )
        done = export_own(config, output, version=version, dataset_name=dataset_name)
    if as_json:
        show_json(done)
        return
    show_pairs({"model": done.folder, "version": done.version})
    click.echo(f"\nPredict with:\n  export nnUNet_results={output}\n  {done.predict_command}")
