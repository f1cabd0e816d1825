"""Read a command line as fedfs would, without running it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fedfs.cli import fedfs


def understood(words: Sequence[str]) -> dict[str, object]:
    """Return the options of a command line; fail as fedfs would fail."""
    command: click.Command = fedfs
    context = click.Context(fedfs)
    rest = list(words)
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
        context = click.Context(command, parent=context)
    command.parse_args(context, rest)
    return context.params
