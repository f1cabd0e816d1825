"""How things look: errors, JSON, tables, logs and progress; lines where there is no terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

import click

from fedfs.errors import EXIT_NOTHING, EXIT_WAITING, UserError
from fedfs.roles.logfile import LOG_FORMAT, LOG_TIME
from fedfs.store.local_files import replacing

if TYPE_CHECKING:
    from fedfs.learner import Progress
    from fedfs.roles.loop import Outcome
    from fedfs.roles.reader.finding import Finding

_LINE_EVERY_S = 30.0

_Command = TypeVar("_Command", bound=Callable[..., Any])

log = logging.getLogger("fedfs")


def show_error(message: str, *, hint: str = "") -> None:
    """Print an error, and what to do about it, to stderr."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', bold=True)} {hint}", err=True)


def number_pairs(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Return ``NAME=NUMBER`` options as a dict; a callback of click's.

    Raises:
        click.BadParameter: a value is not of that form.
    """
    out: dict[str, float] = {}
    for value in values:
        name, sign, number = value.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            sign = ""
        if not sign:
            raise click.BadParameter(f"{value!r} is not NAME=NUMBER")
    return out


def numbers_option(name: str, variable: str, text: str) -> Callable[[_Command], _Command]:
    """Return click's decorator for a repeatable option ``NAME=NUMBER``."""
    return click.option(
        name,
        variable,
        multiple=True,
        metavar="NAME=NUMBER",
        callback=number_pairs,
        help=f"{text} Repeatable.",
    )


def allow_trainer_option(command: _Command) -> _Command:
    """Give a command the option by which a host's operator allows trainers of others."""
    return click.option(
        "--allow-trainer",
        "allowed_trainers",
        multiple=True,
        metavar="NAME",
        help="Trainer below nnUNet_extTrainer that this host may import and run. Repeatable.",
    )(command)


def track_option(text: str) -> Callable[[_Command], _Command]:
    """Give a command an option for one track of a study that has several."""
    return click.option("--track", default="", metavar="NAME", help=text)


def tracks_option(command: _Command) -> _Command:
    """Give a process an option for the tracks that it works on."""
    return click.option(
        "--track",
        "tracks",
        multiple=True,
        metavar="NAME",
        help="Work on this track only, in a study of several; repeatable. Default: all of them.",
    )(command)


def end_with(outcome: Outcome, *, once: bool) -> None:
    """Say what a process did last, and exit with the code that says it to cron.

    Raises:
        click.exceptions.Exit: it did nothing, with ``once``.
    """
    click.echo(outcome.text)
    if once and not outcome.worked:
        raise click.exceptions.Exit(EXIT_NOTHING if outcome.finished else EXIT_WAITING)


def show_finding(finding: Finding) -> None:
    """Print one line of an audit or an examination, and the advice below it."""
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    level = click.style(f"{finding.level:<8}", fg=colours[finding.level])
    click.echo(f"{level} {finding.subject:<14} {finding.text}")
    if finding.advice:
        click.echo(f"{'':<8} {'':<14} -> {finding.advice}")


@contextlib.contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """Yield a text file that appears whole, and replaces what was there.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def size_text(n_bytes: int) -> str:
    """Return a size as people read it: ``812 bytes``, ``4.2 kB``, ``125.3 MB``."""
    if n_bytes < 1000:  # noqa: PLR2004  decimal units
        return f"{n_bytes} bytes"
    for unit in ("kB", "MB"):
        n_bytes_in_unit = n_bytes / {"kB": 1e3, "MB": 1e6}[unit]
        if n_bytes_in_unit < 1000:  # noqa: PLR2004  same
            return f"{n_bytes_in_unit:.1f} {unit}"
    return f"{n_bytes / 1e9:.2f} GB"


def show_json(value: Any) -> None:
    """Print a value (dataclasses included) as JSON."""
    click.echo(json.dumps(_plain(value), indent=2, sort_keys=True))


def show_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values, aligned."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name:<{width}}  {value}")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; plain text where there is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)


def start_logging(*, verbose: bool) -> None:
    """Send the log to stderr: one line per thing done; all of it if ``verbose``."""
    handler = logging.StreamHandler()
    if not verbose:
        handler.addFilter(_is_for_people)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format=LOG_FORMAT,
        datefmt=LOG_TIME,
        handlers=[handler],
    )
    logging.captureWarnings(capture=True)
    if not verbose:  # for developers of the libraries we use
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    # It reports every event that arrives while a watch is being ended.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    logging.getLogger("fedfs").setLevel(logging.DEBUG)  # for the log file


def _is_for_people(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO


class LivePage:
    """A page in the terminal that is drawn again in place.

    Attributes:
        is_live: whether there is a terminal; without one nothing is shown.
    """

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty()
        self._live: Any = None

    def __enter__(self) -> Self:
        if self.is_live:
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(
        self,
        facts: Mapping[str, object],
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        notes: Sequence[str],
    ) -> None:
        """Draw facts, a table and notes."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        pairs = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            pairs.add_row(Text(name, style="bold"), Text(str(value)))
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        self._live.update(Group(pairs, Text(), table, *map(Text, notes)), refresh=True)


class ProgressDisplay:
    """Shows the progress of long steps: a bar in a terminal, a line every half minute elsewhere."""

    def __init__(self) -> None:
        self._step = ""
        self._began_s = self._line_s = 0.0
        self._done_at_start = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                TextColumn("{task.fields[counted]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``; a :data:`fedfs.learner.OnProgress`."""
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
        now_s = time.monotonic()
        is_new = progress.step != self._step or progress.done < self._done_at_start
        if is_new:
            self._began_s = self._line_s = now_s  # a short step needs no line
            self._done_at_start = progress.done
        if self._bar is not None:
            self._show_bar(progress, metrics, is_new=is_new)
        elif progress.total and now_s - self._line_s > _LINE_EVERY_S:
            self._line_s = now_s
            left = self._left(progress, now_s)
            log.info(
                "%s %s", progress.step, "  ".join(filter(None, [_counted(progress), left, metrics]))
            )
        self._step = progress.step

    def _left(self, progress: Progress, now_s: float) -> str:
        """Return how long the step will take, in words."""
        from fedfs.roles.reader.status import duration

        n_done = progress.done - self._done_at_start
        if n_done <= 0:
            return ""
        seconds = (now_s - self._began_s) / n_done * (progress.total - progress.done)
        return f"{duration(seconds)} left"

    def _show_bar(self, progress: Progress, metrics: str, *, is_new: bool) -> None:
        if is_new:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(progress.step, counted="", metrics="")
        self._bar.update(
            self._task, completed=progress.done, total=progress.total or None,
            counted=_counted(progress), metrics=metrics,
        )  # fmt: skip


def _counted(progress: Progress) -> str:
    if not progress.total:
        return ""
    if progress.unit == "bytes":
        return f"{size_text(progress.done)} of {size_text(progress.total)}"
    return f"{progress.done}/{progress.total} {progress.unit}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
