"""A process's log as a file on its own host, for when something has gone wrong.

It holds more than the terminal: what nnU-Net prints too. It is for people, and so it is text
whatever the form of the terminal's log. It never leaves the host.
"""

import contextlib
import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedfs.errors import SetupError
from fedfs.roles.log_format import LogFormatter

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
