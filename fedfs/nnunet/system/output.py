"""Keeps what nnU-Net prints out of the terminal.

Rules:
 * What the calling thread prints goes to the log at DEBUG level. Other threads, and callbacks that
   are wrapped with :meth:`Captured.outside`, print where they always did.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import ParamSpec, TextIO, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Captured(io.TextIOBase):
    """A text stream that turns lines of one thread into log records."""

    def __init__(self, logger: logging.Logger, around: TextIO) -> None:
        self._logger = logger
        self._around = around
        self._thread = threading.get_ident()
        self._suspended = False
        self._line = ""

    def write(self, text: str) -> int:
        """Log whole lines; pass on what other threads write."""
        if self._suspended or threading.get_ident() != self._thread:
            return self._around.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.debug("%s", line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Flush the stream that was there before."""
        if not self._around.closed:
            self._around.flush()

    def outside(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a callback so that it prints as if nothing was captured."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            before, self._suspended = self._suspended, True
            try:
                return function(*args, **kwargs)
            finally:
                self._suspended = before

        return call


@contextmanager
def capture_output(logger: logging.Logger) -> Iterator[Captured]:
    """Send this thread's standard output to ``logger`` for the time of a call of nnU-Net."""
    stream = Captured(logger, sys.stdout)
    with redirect_stdout(stream):
        yield stream
