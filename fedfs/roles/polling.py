"""Polling: wait until something may have changed on a store, with back-off.

Rules:
 * Polling is the truth: it sees what other hosts write, and it loses nothing. The caller looks at
   the store after every :meth:`Waiter.wait`, whatever that returned.
 * On a local folder watchdog ends the wait early. It may miss events, report too many or not start
   at all; that changes how soon the caller looks, never what it sees.
 * Only finished objects count. Hidden names are files that somebody is still writing.
 * The interval grows while nothing happens, so that an idle study costs its store little, and is
   scattered, so that the sites do not ask all at once.
"""

import logging
import math
import queue
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from fedfs.errors import UserError

_log = logging.getLogger(__name__)

# A folder that appears while watchdog looks into its parent is noticed twice, which it reports at
# the length of a page.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")

_SETTLE_S = 0.05  # a process that writes whenever it wakes must not keep itself busy
_EVENTS: list[type[events.FileSystemEvent]] = [
    events.DirCreatedEvent,  # objects may have been in it before it was watched
    events.DirMovedEvent,
    events.FileClosedEvent,
    events.FileCreatedEvent,
    events.FileMovedEvent,
]


@dataclass(frozen=True)
class WaitSettings:
    """Intervals between two looks at the store.

    Attributes:
        interval_s: the first wait, and the one after something happened.
        max_interval_s: the longest wait, before jitter.
        jitter: each wait is longer or shorter by up to this share of it.
        factor: every wait in which nothing happened makes the next one longer by this.
    """

    interval_s: float = 0.25
    max_interval_s: float = 5.0
    jitter: float = 0.2
    factor: float = 1.5

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: naming the one that makes no sense.
        """
        least = f"at least interval_s, which is {self.interval_s}"
        for holds, name, rule in (
            (0 < self.interval_s < math.inf, "interval_s", "above 0"),
            (self.interval_s <= self.max_interval_s < math.inf, "max_interval_s", least),
            (0 <= self.jitter < 1, "jitter", "at least 0 and below 1"),
            (1 <= self.factor < math.inf, "factor", "at least 1"),
        ):
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)}, but must be {rule}.")


class Waiter:
    """Waits between two looks at the store, in one thread; any thread may stop it."""

    def __init__(
        self,
        path: Path | None,
        settings: WaitSettings,
        *,
        rng: random.Random,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Start to watch.

        Args:
            path: folder to be woken by, :meth:`fedfs.store.base.Store.watch_path`; None to poll
                only.
            settings: how long to wait.
            rng: source of the jitter.
            wait: replaces waiting: takes seconds, returns whether it was woken.
        """
        self._settings = settings
        self._rng = rng
        self._wait = self._wait_for_wake if wait is None else wait
        self._interval_s = settings.interval_s
        # Not an Event: put() may be called from a signal handler while this thread is in get().
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopped = False
        self._observer = None if path is None else _observe(path, self._wakes)

    @property
    def stopped(self) -> bool:
        """True once :meth:`stop` was called."""
        return self._stopped

    def wait(self) -> bool:
        """Wait for the current interval; return True if woken early, or stopped."""
        if self._stopped:
            return True
        jitter = self._settings.jitter * self._rng.uniform(-1.0, 1.0)
        woken = self._wait(self._interval_s * (1.0 + jitter))
        if not woken:
            longer_s = self._interval_s * self._settings.factor
            self._interval_s = min(longer_s, self._settings.max_interval_s)
        return woken

    def reset(self) -> None:
        """Go back to the shortest interval: something happened."""
        self._interval_s = self._settings.interval_s

    def stop(self) -> None:
        """End the present wait and all later ones; for any thread or signal handler."""
        self._stopped = True
        self._wakes.put(None)

    def close(self) -> None:
        """Stop, and end watching."""
        self.stop()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5.0)
            self._observer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_wake(self, seconds: float) -> bool:
        try:
            self._wakes.get(timeout=seconds)
        except queue.Empty:
            return False
        if not self._stopped:
            time.sleep(_SETTLE_S)
        # Emptied before the caller looks: what comes later wakes the next wait.
        for _ in range(self._wakes.qsize()):
            self._wakes.get()
        return True


class _Handler(events.FileSystemEventHandler):
    def __init__(self, wakes: queue.SimpleQueue[None]) -> None:
        self._wakes = wakes

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        name = str(event.dest_path or event.src_path).rpartition("/")[2]
        if not name.startswith("."):
            self._wakes.put(None)


def _observe(path: Path, wakes: queue.SimpleQueue[None]) -> BaseObserver | None:
    observer = Observer()
    observer.name = "fedfs-watch"
    try:
        observer.schedule(_Handler(wakes), str(path), recursive=True, event_filter=_EVENTS)
        observer.start()
    except OSError as error:  # such as the limit of inotify watches, or no such folder
        _log.warning("%s is not watched, only polled: %s", path, error)
        observer.stop()
        return None
    return observer
