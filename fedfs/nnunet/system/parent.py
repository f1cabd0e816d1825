"""Processes that end with the process that started them, also if that is killed.

The starter gives them a pipe as their standard input, which closes when it ends.
"""

import os
import threading
from collections.abc import Callable

ENDS_WITH_INPUT = "FEDFS_ENDS_WITH_INPUT"
"""Variable by which a command is told that it ends with its standard input."""


def when_input_ends(act: Callable[[], object]) -> None:
    """Call ``act`` once the standard input of this process has ended, in a thread of its own."""

    def wait() -> None:
        # Not through sys.stdin: a thread that waits in it blocks the interpreter's shutdown.
        while os.read(0, 1):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()
