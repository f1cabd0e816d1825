"""A process's log as a file on its own host, for when something has gone wrong.

It holds more than the terminal: what nnU-Net prints too. It never leaves the host.
"""

import contextlib
import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedfs.errors import SetupError
from fedfs.protocol.text import printable_lines


class LogFormatter(logging.Formatter):
    """Writes a line for each record; what could move a terminal's cursor is escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record; tracebacks have lines of their own."""
        return printable_lines(super().format(record))


_MAX_BYTES, _N_OLD = 10 << 20, 4


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Also write the log to a file, which is replaced at 10 MiB; the last four stay beside it.

    An error that ends the process is written there with its traceback.

    Raises:
        SetupError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=_MAX_BYTES, backupCount=_N_OLD, encoding="utf-8"
        )
    except OSError as error:
        raise SetupError(
            f"The log {path} cannot be written: {error.strerror or error}.",
            hint="check the permissions of the folder, and the free space",
        ) from error
    handler.setFormatter(LogFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        logging.getLogger(__name__).debug("ended by an error", exc_info=True)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
