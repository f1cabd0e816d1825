"""The demo: the whole of a study on one machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import OUTPUT, ROUNDS, STUDY, TRAINING, command, option
from fedfs.cli.options import FOLDER, device_option
from fedfs.cli.progress import LivePage
from fedfs.cli.terminal import make_table, show_json, show_table
from fedfs.errors import Terminated

if TYPE_CHECKING:
    from fedfs.roles.reader.status import StudyStatus
    from fedfs.simulation.demo import DemoResult

_PHASES = {
    "joining": "the hospitals ask to take part",
    "planning": "sizes, spacings and grey values of the images lead to one plan for all",
}


@command(example="fedfs demo")
@option(
    "--data",
    type=FOLDER,
    section=STUDY,
    help="nnU-Net raw dataset with cases.csv (case,site); default: made-up images.",
)
@option(
    "--folder",
    type=FOLDER,
    section=OUTPUT,
    help="Where everything goes and stays; default: a new temporary folder.",
)
@option(
    "--full",
    is_flag=True,
    section=STUDY,
    help="Take a larger network, more images and rounds; ten minutes.",
)
@option(
    "--rounds",
    type=int,
    section=ROUNDS,
    help="Global versions to make; default: 8; 12 with --full, 20 with --data.",
)
@option(
    "--local-iterations",
    type=int,
    section=ROUNDS,
    help="Iterations per round and site; default: 30; 40 with --full, 50 with --data.",
)
@option(
    "-c",
    "--configuration",
    default="2d",
    show_default=True,
    section=TRAINING,
    help="2d or 3d_fullres.",
)
@option(
    "--seed",
    default=12345,
    show_default=True,
    section=STUDY,
    help="Seed of the images and the initial weights.",
)
@device_option
@option("--json", "as_json", is_flag=True, help="Print JSON, and progress to stderr.")
def demo(
    *,
    data: Path | None,
    folder: Path | None,
    full: bool,
    rounds: int | None,
    local_iterations: int | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Run a study of three hospitals on this host.

    It shows what federation is worth. Made-up images by default, or real ones with --data.
    Everything is real but the distance: separate processes share nothing but a folder. Given
    again with the same folder, the command goes on where it was.
    """
    from fedfs.simulation.demo import Demo
    from fedfs.simulation.demo_effort import FULL, QUICK, REAL
    from fedfs.simulation.hosts import ended_with_us

    if folder is not None and _is_foreign(folder):
        raise click.UsageError(f"{folder} is not empty, and holds no demo. Name a new folder.")
    if full and data:
        raise click.UsageError("--full is for made-up images; with --data give --rounds.")
    place = folder or Path(tempfile.mkdtemp(prefix="fedfs-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    effort = REAL if data else FULL if full else QUICK
    effort = replace(
        effort,
        rounds=rounds or effort.rounds,
        local_iterations=local_iterations or effort.local_iterations,
    )
    with (
        _told_where(place if folder is None else None),
        ended_with_us(),
        contextlib.closing(_Display(to_stderr=as_json)) as display,
    ):
        result = Demo(
            place.resolve(),
            display.log,
            display.watch,
            effort=effort,
            data=data.resolve() if data else None,
            **others,
        ).run()
    if as_json:
        show_json(result)
    else:
        _show(result)


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder holds something, and no demo."""
    from fedfs.simulation.kept_options import OPTIONS_FILE

    return folder.exists() and any(folder.iterdir()) and not (folder / OPTIONS_FILE).exists()


@contextlib.contextmanager
def _told_where(place: Path | None) -> Iterator[None]:
    """If the demo is stopped, say by which option it goes on, where nobody gave it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        if place is not None:
            click.echo(f"- all is kept: add --folder {place} to go on where it was", err=True)
        raise


def _show(result: DemoResult) -> None:
    from fedfs.simulation.demo_page import table

    click.echo(f"\nmean Dice on {result.n_test_cases} test cases that no hospital trained on\n")
    show_table(*table(result.sites, result.iterations))
    click.echo(
        "\nown: the hospital's own kind of images; all: those of all hospitals\n"
        "local: trained alone; federated: by all together; personal: the federated one, trained "
        "further at home"
    )
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    click.echo(f"\ntime: {phases}")
    click.echo(f"report with pictures: {result.report}\n")
    click.echo("next, see what left a hospital, read the study's report, use the model:")
    click.echo(f"  fedfs privacy {result.store} --site {result.sites[0].site}")
    click.echo(f"  fedfs report {result.store} -o {result.report.with_name('study.html')}")
    click.echo(f"  nnUNet_results={result.model.parents[1]} {result.predict_command}\n")
    click.echo(
        f"demo: sites={len(result.sites)} rounds={result.rounds} "
        f"dice_local={result.dice_local:.4f} dice_federated={result.dice_federated:.4f} "
        f"dice_personal={result.dice_personal:.4f} model={result.model} report={result.report}"
    )


class _Display:
    """A live table in a terminal; elsewhere a line when something happens."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._page = LivePage(to_stderr=to_stderr)
        self._lines: set[str] = set()

    def close(self) -> None:
        """Leave the table as it is."""
        self._page.close()

    def log(self, text: str) -> None:
        """Print a line about the phase that begins."""
        self.close()
        click.echo(f"- {text}", err=self._to_stderr)

    def watch(self, status: StudyStatus) -> None:
        """Show where the study is."""
        if self._page.is_live:
            rows = [
                (
                    site.site,
                    site.activity,
                    "" if site.mean_dice is None else f"{site.mean_dice:.2f}",
                )
                for site in status.sites
            ]
            table = make_table(("hospital", "doing", "pseudo Dice on its own cases"), rows)
            table.title = f"{status.name}: {_round(status)}"
            table.title_justify, table.pad_edge = "left", True
            self._page.show(table)
            return
        if status.version < 0:
            self._once(f"  {_PHASES.get(status.phase, status.phase)}")
        elif all(site.evaluated_version == status.version for site in status.sites):
            found = [
                f"{site.mean_dice:.2f} of {site.site}'s" for site in status.sites if site.mean_dice
            ]
            self._once(
                f"  {_round(status)}: the shared model covers {', '.join(found) or 'none'} "
                "own outlines (pseudo Dice)"
            )

    def _once(self, line: str) -> None:
        if line not in self._lines:
            self._lines.add(line)
            click.echo(line, err=self._to_stderr)


def _round(status: StudyStatus) -> str:
    if status.version < 1:
        return f"before the first of {status.rounds} rounds"
    return f"round {status.version} of {status.rounds}"
