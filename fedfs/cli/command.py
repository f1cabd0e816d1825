"""Commands whose help shows options in sections, the required ones first, and an example last.

Rules:
 * An option says its section with ``section=``, one of :data:`SECTIONS`, which have that order.
 * What has to be given is shown first, whatever its section.
 * The example is a command line that works; ``tests/unit/cli/test_command.py`` reads each of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from fedfs.cli.store_words import with_store

_Function = TypeVar("_Function", bound=Callable[..., Any])

REQUIRED = "Required"
OPTIONS = "Options"
STUDY = "Study"
NETWORK = "Network"
TRAINING = "Training"
ROUNDS = "Rounds"
PRIVACY = "Privacy"
SCORES = "Scores"
STORAGE = "Storage"
HOST = "This host"
OUTPUT = "Output"
S3 = "Store in a bucket (S3)"

SECTIONS = (
    REQUIRED, OPTIONS, STUDY, NETWORK, TRAINING, ROUNDS, PRIVACY, SCORES, STORAGE, HOST, OUTPUT, S3,
)  # fmt: skip
"""Titles of the sections of a help, in their order."""


_OTHER_PLACES = {
    "store": "Give it, set FEDFS_STORE, or write store = ... into fedfs.toml.",
    "--site": "Give it, set FEDFS_SITE, or write site = ... into fedfs.toml.",
    "--name": "Give it, or write it into a file: fedfs init --template > study.toml",
}
"""Places where what is missing on a command line can stand."""


class Option(click.Option):
    """An option that knows in which section of the help it stands.

    Args:
        section: one of :data:`SECTIONS`.
        names: returns the names that the option takes, one or several with commas, where they are
            no :class:`click.Choice`. A shell completes them; ``{names}`` in the help lists them.
    """

    def __init__(
        self,
        *arguments: Any,
        section: str = OPTIONS,
        names: Callable[[], Iterable[str]] = tuple,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        if self.metavar is None:  # click's INTEGER RANGE and FLOAT say less
            self.metavar = {"integer range": "N", "integer": "N", "float": "X"}.get(self.type.name)
        self.section, self.names = section, names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return spellings and help, with all names."""
        record = super().get_help_record(ctx)
        if record is None or "{names}" not in record[1]:
            return record
        return record[0], record[1].replace("{names}", ", ".join(self.names()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the last of the names that have been typed."""
        before, sign, begun = incomplete.rpartition(",")
        return super().shell_complete(ctx, incomplete) or [
            CompletionItem(f"{before}{sign}{name}")
            for name in self.names()
            if name.lower().startswith(begun.lower())
        ]


class Argument(click.Argument):
    """An argument that the help explains, among what is required or in another section."""

    def __init__(
        self,
        *arguments: Any,
        help: str,  # noqa: A002 (as click's options)
        section: str = REQUIRED,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.section = section
        self.explanation = help  # newer versions of click show a `help` in a section of their own

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002 (of click)
        """Return name and explanation, as for an option."""
        return self.human_readable_name, self.explanation


class Command(click.Command):
    """A command whose help has sections, and ends with an example.

    Args:
        example: a command line that works, from ``fedfs`` on; may have several lines.
    """

    def __init__(self, *arguments: Any, example: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read a command line, which may leave out a STORE that is known otherwise."""
        try:
            return super().parse_args(ctx, with_store(self, ctx, args))
        except click.MissingParameter as error:
            where = _OTHER_PLACES.get(error.param.opts[0] if error.param else "")
            raise click.MissingParameter(where, ctx=error.ctx, param=error.param) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all options, section by section, with one width of the first column."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                text = record[1].replace("  [required]", "")  # the section says it
                sections[section_of(parameter)].append((record[0], text))
        _write_sections(sections, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, then the example."""
        super().format_epilog(ctx, formatter)
        if self.example:
            with formatter.section("Example"):
                formatter.write("".join(f"  {line}\n" for line in self.example.splitlines()))


class Group(Command, click.Group):
    """A command with commands below it, which the listing shows in sections too.

    Attributes:
        titles: title of the section of each command; of a command that is not in it, ``Commands``.
    """

    command_class = Command
    group_class = type  # groups in groups are of this class too

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.titles: dict[str, str] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                title = self.titles.get(name, "Commands")
                record = (name, command.get_short_help_str())
                sections.setdefault(title, []).append(record)
        _write_sections(sections, formatter)


def section_of(parameter: click.Parameter) -> str:
    """Return the section of the help that shows an option or argument."""
    if parameter.required:
        return REQUIRED
    if {"--help", "--json"} & set(parameter.opts):
        return OUTPUT
    return getattr(parameter, "section", OPTIONS)


def _write_sections(
    sections: dict[str, list[tuple[str, str]]], formatter: click.HelpFormatter
) -> None:
    names = [name for records in sections.values() for name, _ in records]
    width = min(30, max(map(len, names), default=0))  # click breaks the line after longer ones
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in records])


option = functools.partial(click.option, cls=Option)
"""An option with a section; ``option("--fold", section=TRAINING)``."""


def argument(*names: str, **settings: Any) -> Callable[[_Function], _Function]:
    """Return an argument with an explanation: ``argument("store", help="A folder.")``."""
    # Anew for each command: in click 8.1.0 a decorator forgets its class once it is used.
    return lambda function: click.argument(*names, cls=Argument, **settings)(function)  # noqa: PLW0108


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator: ``@command(example="fedfs status /mnt/share/organ")``."""
    return click.command(name, cls=Command, **settings)


def group(**settings: Any) -> Callable[[Callable[..., Any]], Group]:
    """Return a decorator that makes a group of such commands."""
    return click.group(cls=Group, **settings)
