"""An object from S3, in windows.

Rules:
 * A window that broke goes on behind the last byte that came, for as long as each attempt brings
   some; few windows are in memory at a time.
 * All windows are of one object: its size and entity tag are compared here, because servers
   disagree about ``If-Match``.
 * An object that is not there, or a server that is not, is the caller's to deal with.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import Any

from fedfs.errors import StoreError, StoreUnavailableError
from fedfs.store.ahead import in_order
from fedfs.store.s3.client import Transfer
from fedfs.store.s3.errors import RefusedError

_WHOLE, _NO_SUCH_RANGE = 200, 416
_BAD_SERVER = "this server cannot be used; show this to whoever runs it"


class Download(Transfer):
    """The reading of one object.

    Attributes:
        total: its size in bytes, once it has begun.
    """

    total = -1
    _tag = ""
    _check_size: Callable[[int], None] = staticmethod(lambda _: None)

    def begin(self, n_bytes: int, *, check_size: Callable[[int], None]) -> bytes:
        """Return the first ``n_bytes``, or all there are if they are fewer.

        Args:
            n_bytes: of the beginning.
            check_size: called with the object's size before any of it is read.

        Raises:
            RefusedError: there is no such key.
            StoreError: it cannot be read.
        """
        got, self._check_size = bytearray(), check_size
        fill = partial(self._fill, got, 0, n_bytes)
        try:
            try:
                fill()
            except StoreUnavailableError:
                if not got:
                    raise
                self._patience.repeat(fill, progress=lambda: len(got))
        except RefusedError as error:
            if error.status != _NO_SUCH_RANGE or got:
                raise
            self.total = 0  # nothing has no first byte
        return bytes(got)

    def rest(self, start: int, window_bytes: int, *, at_once: int) -> Iterator[bytes]:
        """Return what is behind the beginning of ``start`` bytes, window by window.

        Raises:
            StoreError: it cannot be read.
        """
        starts = range(start, self.total, window_bytes)
        lengths = (min(window_bytes, self.total - begin) for begin in starts)
        windows = map(partial, repeat(self._window), starts, lengths)
        return in_order(windows, at_once=at_once)

    def _window(self, start: int, length: int) -> bytes:
        got = bytearray()
        fill = partial(self._fill, got, start, length)
        self._patience.repeat(fill, progress=lambda: len(got))
        return bytes(got)

    def _fill(self, got: bytearray, start: int, length: int) -> None:
        """Make one request for what is missing of a window."""
        begin = start + len(got)
        if begin == self.total:
            return

        def check(answer: Mapping[str, Any]) -> None:
            total, tag = self._total(answer, begin), str(answer.get("ETag", ""))
            if self.total < 0:
                self._check_size(total)
                self.total, self._tag = total, tag
            elif (total, tag) != (self.total, self._tag):
                raise StoreError(f"{self._what}: it changed meanwhile.", hint=_BAD_SERVER)

        self._client.read(
            self._what,
            got,
            n_bytes=length - len(got),
            check=check,
            Key=self._key,
            Range=f"bytes={begin}-{start + length - 1}",
        )
        if len(got) < min(length, self.total - start):
            raise StoreUnavailableError(
                f"{self._what}: the connection ended too early.",
                hint="it goes on from there when it is tried again; check the line and the proxy",
            )

    def _total(self, answer: Mapping[str, Any], begin: int) -> int:
        """Return the size of the object of which an answer holds a range."""
        if answer["ResponseMetadata"]["HTTPStatusCode"] == _WHOLE:
            if begin:
                raise StoreError(f"{self._what}: ranges are ignored.", hint=_BAD_SERVER)
            return int(answer["ContentLength"])
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]
        if not total.isdigit():
            raise StoreError(f"{self._what}: its size is not told.", hint=_BAD_SERVER)
        return int(total)
