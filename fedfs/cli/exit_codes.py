"""Exit codes of the command line, by which cron and others tell what to do next."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from fedfs.cli.terminal import show_event, show_json
from fedfs.errors import EXIT_NOTHING, EXIT_WAITING, Terminated
from fedfs.nnunet.system.parent import ENDS_WITH_INPUT, when_input_ends

if TYPE_CHECKING:
    from fedfs.roles.loop import Outcome

EXIT_PROBLEM = 1
"""``fedfs verify`` or ``fedfs doctor`` found a problem."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C, as shells have it."""

EXIT_TERMINATED = 128 + signal.SIGTERM
"""Ended by SIGTERM, as shells have it."""

_ONE_SIGNAL_S = 5.0
"""Whoever ends a process and its group, as timeout(1) does, sends the process two signals."""

EXIT_CODES = """\b
Exit codes: 0 worked or finished; 10 waiting for others (--once); 11 nothing left
to do (--once); 2 usage; 3 this host's set-up; 4 the store; 5 a peer's message;
6 the study; 7 training.
"""
"""For the help of ``fedfs``; each class of :mod:`fedfs.errors` has its own."""


@contextlib.contextmanager
def terminated_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise :class:`Terminated` in the block, so that it is left in good order.

    What the block holds, such as locks, temporary files and processes of its own, is then released
    as after an error. Without this, the operating system ends the process where it is.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are for that one
        yield
        return

    heeded_s = -math.inf

    def terminate(_number: int, _frame: object) -> None:
        nonlocal heeded_s
        now_s = time.monotonic()
        if now_s - heeded_s > _ONE_SIGNAL_S:
            heeded_s = now_s
            raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def terminated_with_input() -> None:
    """End this process by SIGTERM with its standard input, if whoever started it says so."""
    if os.environ.pop(ENDS_WITH_INPUT, ""):  # not said of processes that this one starts
        when_input_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def end_as_terminated() -> NoReturn:
    """End this process by SIGTERM, which whoever sent it takes for success."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(EXIT_TERMINATED)  # the first process of a container does not die of it


def end_with(outcome: Outcome, *, once: bool, as_json: bool) -> None:
    """Print the last outcome of a process, and exit with the code that tells it to cron.

    Raises:
        click.exceptions.Exit: the process did nothing, with ``once``.
    """
    if as_json:
        show_json(outcome)
    else:
        show_event(outcome.text)
    if once and not outcome.worked:
        raise click.exceptions.Exit(EXIT_NOTHING if outcome.finished else EXIT_WAITING)
