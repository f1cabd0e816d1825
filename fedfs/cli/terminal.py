"""Output of the command line: errors, JSON, tables, findings, files and the log."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fedfs.errors import UserError
from fedfs.protocol.text import printable, printable_lines
from fedfs.roles.log_format import JSON, TEXT, JsonFormatter, LogFormatter, is_json_log
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.store.local_files import replacing

log = logging.getLogger("fedfs")

if TYPE_CHECKING:
    from rich.table import Table

_EXIT_DECLINED = 1  # as EXIT_PROBLEM: nothing was done, and no error happened


def show_error(message: str, *, hint: str = "") -> None:
    """Print an error, and what to do about it, to stderr; in the log, where that is JSON."""
    if is_json_log():
        log.error("%s", message, extra={"hint": hint})
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable_lines(message)}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', bold=True)} {printable_lines(hint)}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back.

    Args:
        question: for a person; it says what will be.
        yes: the answer has been given, by ``--yes``.

    Raises:
        UserError: nobody can be asked.
        click.exceptions.Exit: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        command = click.get_current_context().command_path
        raise UserError(
            f"{command} asks before it acts, and there is no terminal to ask at.",
            hint="in a script, give --yes",
        )
    if not click.confirm(question, err=True):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(_EXIT_DECLINED)


def show_findings(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come, or all as JSON; return the number of problems."""
    colours = {OK: "green", NOTE: "yellow", PROBLEM: "red"}
    done = []
    for finding in findings:
        done.append(finding)
        if as_json:
            continue
        level = click.style(f"{finding.level:<8}", fg=colours[finding.level])
        click.echo(f"{level} {finding.subject:<14} {printable(finding.text)}")
        if finding.advice:
            click.echo(f"{'':<8} {'':<14} -> {printable(finding.advice)}")
    n_problems = sum(finding.level == PROBLEM for finding in done)
    if as_json:
        show_json({"findings": done, "problems": n_problems})
    return n_problems


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
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
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="check the folder, its permissions and the free space",
        ) from error


def show_json(value: Any, *, in_one_line: bool = False) -> None:
    """Print a value (dataclasses included) as JSON."""
    click.echo(json.dumps(_plain(value), indent=None if in_one_line else 2, sort_keys=True))


def show_facts(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values, for people or for programs."""
    if as_json:
        show_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        show_pairs(facts)


def show_pairs(pairs: Mapping[str, object], *, to_stderr: bool = False) -> None:
    """Print names and values, aligned."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name:<{width}}  {printable(str(value))}", err=to_stderr)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; plain text where there is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table of rich's; cells are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return table


def show_event(text: str, *, err: bool = False) -> None:
    """Print a sentence on what a process has done; as a line of the log where it is JSON."""
    if is_json_log():
        log.info("%s", text)
    else:
        click.echo(text, err=err)


def start_logging(*, verbose: bool = False, log_format: str = TEXT) -> None:
    """Send the log to stderr: one line per thing done; all of it if ``verbose``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == JSON else LogFormatter())
    if not verbose:
        handler.addFilter(lambda record: record.levelno >= logging.INFO)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        handlers=[handler],
    )
    logging.captureWarnings(capture=True)
    if not verbose:  # for developers of the libraries we use
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    # It reports every event that arrives while a watch is being ended.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    logging.getLogger("fedfs").setLevel(logging.DEBUG)  # for the log file


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
