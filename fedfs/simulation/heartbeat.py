"""Lines about work that takes long: when something has happened, and every half minute.

A thread looks while the work goes on, so that it does not matter how that is done.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedfs.errors import FedfsError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_study
from fedfs.roles.reader.status import summarize
from fedfs.store import open_store

_LOOK_EVERY_S = 2.0
_EVERY_S = 30.0

Look = Callable[[], tuple[object, str]]
"""Returns something that changes when there is news, and a line about how it stands."""


@contextlib.contextmanager
def heartbeat(
    look: Look, log: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Log a line now and then while the block runs.

    Args:
        look: called every other second.
        log: called with its line, with news and at least every half minute.
        clock: seconds.
    """
    is_over = threading.Event()

    def watch() -> None:
        news: object = None
        logged_s = clock()
        while not is_over.wait(_LOOK_EVERY_S):
            now, line = look()
            if now != news or clock() - logged_s >= _EVERY_S:
                news, logged_s = now, clock()
                log(line)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def look_at(store: Path, name: str) -> Look:
    """Return a look at a study of one track; its news are the versions."""
    observer: Observer | None = None

    def look() -> tuple[object, str]:
        nonlocal observer
        try:
            observer = observer or open_study(open_store(str(store)))
            view = summarize(observer.refresh(everything=True))  # statuses of sites, too
        except FedfsError:  # who does the work says what is wrong, if something is
            return None, f"{name}: the study begins"
        at = f"version {view.version} of {view.rounds}" if view.version >= 0 else view.phase
        doing = [f"{site.site} {site.activity}" for site in view.sites]
        return view.version, f"{name}: {'; '.join([at, *doing])}"

    return look
