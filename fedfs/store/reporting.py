"""Progress of transfers: a store that tells how far its uploads and downloads are."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedfs.learner import OnProgress, Progress
from fedfs.store.base import Store
from fedfs.store.local_files import counting_bytes
from fedfs.store.wrapper import Wrapper


class ReportingStore(Wrapper):
    """Reports steps ``upload`` and ``download``, in bytes.

    A download counts up to ``max_bytes``, which for what a message names is its size.

    Attributes:
        on_progress: called with the progress, in the thread that asked for the transfer.
    """

    def __init__(self, inner: Store, on_progress: OnProgress) -> None:
        super().__init__(inner)
        self.on_progress = on_progress

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        total = path.stat().st_size if path.exists() else 0  # the store says what is wrong
        with self._reported("upload", total):
            return super().upload(key, path)

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        with self._reported("download", max_bytes):
            super().download(key, path, max_bytes=max_bytes)

    @contextlib.contextmanager
    def _reported(self, step: str, total: int) -> Iterator[None]:
        done = 0

        def count(n_bytes: int) -> None:
            nonlocal done
            done = min(total, done + n_bytes)  # what is tried again counts once
            self.on_progress(Progress(step, done, total, "bytes"))

        self.on_progress(Progress(step, 0, total, "bytes"))
        with counting_bytes(count):
            yield
