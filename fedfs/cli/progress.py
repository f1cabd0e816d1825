"""Progress on the terminal: a page drawn in place, a bar, or lines where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from fedfs.roles.log_format import is_json_log
from fedfs.roles.reader.units import format_duration, format_size

if TYPE_CHECKING:
    from fedfs.learner import Progress

_LINE_EVERY_S = 30.0

log = logging.getLogger("fedfs")


class LivePage:
    """A page in the terminal that is drawn again in place.

    Attributes:
        is_live: whether there is a terminal; without one nothing can be shown.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self.is_live = (sys.stderr if to_stderr else sys.stdout).isatty()
        self._to_stderr = to_stderr
        self._live: Any = None

    def show(self, *parts: Any) -> None:
        """Draw tables and texts, one below the other."""
        from rich.console import Console, Group
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=Console(stderr=self._to_stderr), auto_refresh=False)
            self._live.start()
        self._live.update(Group(*parts), refresh=True)

    def close(self) -> None:
        """Leave the page as it was drawn last."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class ProgressDisplay:
    """Shows the progress of long steps: a bar in a terminal, a line every half minute elsewhere."""

    def __init__(self) -> None:
        self._step = ""
        self._began_s = self._line_s = 0.0
        self._done_at_start = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not is_json_log():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:<14}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[counted]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``; a :data:`fedfs.learner.OnProgress`."""
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
        now_s = time.monotonic()
        is_new = progress.step != self._step or progress.done < self._done_at_start
        if is_new:
            self._began_s = self._line_s = now_s  # a short step needs no line
            self._done_at_start = progress.done
        if self._bar is not None:
            self._show_bar(progress, metrics, is_new=is_new)
        elif progress.total and now_s - self._line_s > _LINE_EVERY_S:
            self._line_s = now_s
            parts = (_counted(progress), self._left(progress, now_s), metrics)
            log.info("%s %s", progress.step, "  ".join(filter(None, parts)))
        self._step = progress.step

    def _left(self, progress: Progress, now_s: float) -> str:
        """Return the time that the step still takes, as text."""
        n_done = progress.done - self._done_at_start
        if n_done <= 0:
            return ""
        seconds = (now_s - self._began_s) / n_done * (progress.total - progress.done)
        return f"{format_duration(seconds)} left"

    def _show_bar(self, progress: Progress, metrics: str, *, is_new: bool) -> None:
        if is_new:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(progress.step, counted="", metrics="")
        self._bar.update(
            self._task, completed=progress.done, total=progress.total or None,
            counted=_counted(progress), metrics=metrics,
        )  # fmt: skip


def _counted(progress: Progress) -> str:
    if not progress.total:
        return ""
    if progress.unit == "bytes":
        return f"{format_size(progress.done)} of {format_size(progress.total)}"
    return f"{progress.done}/{progress.total} {progress.unit}"
