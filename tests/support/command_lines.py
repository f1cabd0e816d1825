"""The commands of fedfs, and command lines as fedfs reads them, without running them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from fedfs.cli import fedfs

STUDY = Path(__file__).with_name("study.toml")


def understood(words: Sequence[str]) -> dict[str, object]:
    """Return the options of a command line; fail as fedfs would fail.

    A ``study.toml`` need not be there, and nothing is printed.
    """
    command: click.Command = fedfs
    context = click.Context(fedfs)
    rest = [str(STUDY) if Path(word).name == STUDY.name else word for word in words]
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
        context = click.Context(command, parent=context)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(click.exceptions.Exit):
        command.parse_args(context, rest)
    return context.params


def all_commands(
    command: click.Command = fedfs, path: tuple[str, ...] = ("fedfs",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words by which it is called, groups included."""
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from all_commands(child, (*path, name))
