"""Exit codes of the command line, by which cron and others tell what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedfs.errors import EXIT_NOTHING, EXIT_WAITING

if TYPE_CHECKING:
    from fedfs.roles.loop import Outcome

EXIT_PROBLEM = 1
"""``fedfs verify`` or ``fedfs doctor`` found a problem."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C, as shells have it."""

EXIT_CODES = """\b
Exit codes: 0 worked or finished; 10 waiting for others (--once); 11 nothing left
to do (--once); 2 usage; 3 this host's set-up; 4 the store; 5 a peer's message;
6 the study; 7 training.
"""
"""For the help of ``fedfs``; each class of :mod:`fedfs.errors` has its own."""


def end_with(outcome: Outcome, *, once: bool) -> None:
    """Print the last outcome of a process, and exit with the code that tells it to cron.

    Raises:
        click.exceptions.Exit: the process did nothing, with ``once``.
    """
    click.echo(outcome.text)
    if once and not outcome.worked:
        raise click.exceptions.Exit(EXIT_NOTHING if outcome.finished else EXIT_WAITING)
