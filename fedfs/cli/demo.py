"""The demo: the whole of a study on one machine."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import command
from fedfs.cli.options import FOLDER, default_option, device_option
from fedfs.cli.progress import LivePage
from fedfs.cli.terminal import make_table, show_json, show_table

if TYPE_CHECKING:
    from fedfs.roles.reader.status import StudyStatus


@command(example="fedfs demo")
@click.option(
    "--data",
    type=FOLDER,
    help="nnU-Net raw dataset with cases.csv (case,site); default: made-up images.",
)
@click.option(
    "--folder",
    type=FOLDER,
    help="Where everything goes and stays; default: a new temporary folder.",
)
@click.option("--rounds", type=int, help="Default: 12, 20 with --data.")
@click.option(
    "--local-iterations", type=int, help="Per round and site; default: 40, 50 with --data."
)
@default_option("-c", "--configuration", default="2d", help="2d or 3d_fullres.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and progress to stderr.")
def demo(
    *,
    data: Path | None,
    folder: Path | None,
    rounds: int | None,
    local_iterations: int | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Run a study of three hospitals on this host.

    It shows what federation is worth. Made-up images by default, or real ones with --data.
    Everything is real but the distance: separate processes share nothing but a folder.
    """
    from fedfs.simulation.demo import Demo
    from fedfs.simulation.hosts import interrupted_by_sigterm

    place = folder or Path(tempfile.mkdtemp(prefix="fedfs-demo-"))
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty.")
    place.mkdir(parents=True, exist_ok=True)
    with interrupted_by_sigterm(), contextlib.closing(_Display(to_stderr=as_json)) as display:
        result = Demo(
            place.resolve(),
            display.log,
            display.watch,
            data=data,
            rounds=rounds or (20 if data else 12),
            local_iterations=local_iterations or (50 if data else 40),
            **others,
        ).run()
    if as_json:
        show_json(result)
    else:
        _show(result)


def _show(result: Any) -> None:
    click.echo(f"\nmean Dice on {result.n_test_cases} cases that no site trained on\n")
    rows = [
        (
            s.site, s.n_training_cases,
            f"{s.local_own:.3f}", f"{s.federated_own:.3f}",
            f"{s.local_all:.3f}", f"{s.federated_all:.3f}",
        )
        for s in result.sites
    ]  # fmt: skip
    show_table(
        ("site", "cases", "own images: alone", "federated", "all images: alone", "federated"), rows
    )
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    click.echo(f"\ntime: {phases}")
    click.echo("predict with it:")
    click.echo(f"  export nnUNet_results={result.model.parents[1]}\n  {result.predict_command}\n")
    click.echo(
        f"demo: sites={len(result.sites)} rounds={result.rounds} "
        f"dice_local={result.dice_local:.4f} dice_federated={result.dice_federated:.4f} "
        f"model={result.model}"
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
            rows = [("aggregator", status.aggregator, "")]
            for site in status.sites:
                dice = "" if site.mean_dice is None else f"{site.mean_dice:.3f}"
                rows.append((site.site, site.activity, dice))
            table = make_table(("who", "doing", "pseudo Dice"), rows)
            table.title = f"{status.name}: version {max(status.version, 0)} of {status.rounds}"
            table.title_justify, table.pad_edge = "left", True
            self._page.show(table)
            return
        mean = status.mean_dice.get(str(status.version))
        if mean is not None:
            n_scores = sum(s.evaluated_version == status.version for s in status.sites)
            if n_scores == len(status.sites):
                self._once(f"  version {status.version} of {status.rounds}: pseudo Dice {mean:.3f}")
        else:
            self._once(f"  {status.phase}: waiting for {', '.join(status.waiting_for) or 'nobody'}")

    def _once(self, line: str) -> None:
        if line not in self._lines:
            self._lines.add(line)
            click.echo(line, err=self._to_stderr)
