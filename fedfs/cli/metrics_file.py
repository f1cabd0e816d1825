"""The file of metrics that ``status --prometheus`` writes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli.terminal import write_whole
from fedfs.errors import FedfsError

if TYPE_CHECKING:
    from fedfs.roles.reader.status import StudyStatus


def named_prom(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Return the path of ``--prometheus``; a callback of click's.

    Raises:
        click.BadParameter: node_exporter would not read a file of that name.
    """
    if path is not None and path.suffix != ".prom":
        raise click.BadParameter(f"{path} does not end in .prom, as node_exporter wants it.")
    return path


class MetricsFile:
    """A file of metrics that is replaced with every look; without a path, nothing."""

    def __init__(self, path: Path | None, store: str) -> None:
        self._path, self._store = path, store

    def write(self, views: Mapping[str, StudyStatus]) -> None:
        """Replace the file by the metrics of a study."""
        from fedfs.roles.reader.metrics import metrics_text

        if self._path is not None:
            with write_whole(self._path) as file:
                file.write(metrics_text(views, store=self._store, now_s=time.time()))

    @contextlib.contextmanager
    def of_failure(self) -> Iterator[None]:
        """Replace the file by the exit code if the block raises an error."""
        from fedfs.roles.reader.metrics import failure_text

        try:
            yield
        except FedfsError as error:
            if self._path is not None:
                code, now_s = error.exit_code, time.time()
                with write_whole(self._path) as file:
                    file.write(failure_text(store=self._store, now_s=now_s, exit_code=code))
            raise
