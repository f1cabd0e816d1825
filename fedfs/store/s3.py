"""A bucket, or a prefix of one, on any server that speaks S3.

Rules:
 * A message is created by one PUT with ``If-None-Match: *``, never in parts: servers differ in what
   they make conditional, and this is what most get right. A large file goes in parts; its key has
   the hash of its bytes, so that to overwrite it harms nobody.
 * Nothing is asked for by HEAD, and the bucket itself is not asked about: a site may list its own
   prefixes and nothing else, and is then told 403 for an object that is not there.
 * Listings are never cached.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import ObjectNotFoundError, StoreError, StoreUnavailableError
from fedfs.protocol.layout import check_key
from fedfs.store.base import Entry, Store, check_prefix, is_key, open_local, write_local
from fedfs.store.bucket import (
    CONNECTION_ERRORS,
    Bucket,
    NoRangeError,
    NotImplementedHereError,
    S3Options,
    TakenError,
    again,
)
from fedfs.store.multipart import IN_FLIGHT, Upload, md5_header

__all__ = ["PART_BYTES", "S3Options", "S3Store"]

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""A file larger than this is uploaded in parts; also what is downloaded at a time."""


@dataclass(frozen=True)
class _Found:
    size: int
    tag: str


@dataclass(frozen=True)
class _Window:
    data: bytes
    total: int
    tag: str


class S3Store(Store):
    """Objects beneath a prefix of a bucket."""

    def __init__(self, url: str, options: S3Options, *, part_bytes: int = PART_BYTES) -> None:
        """Prepare to talk to the server; nothing is asked yet.

        Args:
            url: ``s3://bucket`` or ``s3://bucket/prefix``.
            options: where the server is.
            part_bytes: of files that are uploaded in parts, and of what is downloaded at a time.

        Raises:
            UserError: not such a URL, or options that cannot be used.
        """
        self._bucket = Bucket(url, options)
        self.url = self._bucket.url
        self._part_bytes = part_bytes
        self._is_conditional = True

    @property
    def request_counts(self) -> Mapping[str, int]:  # type: ignore[override]  # they grow
        """Kind of request -> how many this process has made: list, get, put, delete."""
        return self._bucket.request_counts

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        return b"".join(self._windows(check_key(key), max_bytes))

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        check_key(key)
        if not self._is_conditional and self._look(key) is not None:
            return self._same(key, data)
        condition = {"IfNoneMatch": "*"} if self._is_conditional else {}
        try:
            self._bucket.call(
                "put_object", key, "written", Body=data, ContentMD5=md5_header(data), **condition
            )
        except TakenError:
            return self._same(key, data)
        except NotImplementedHereError:
            if not self._is_conditional:
                raise StoreError(f"{self.url}: the server cannot write objects") from None
            log.warning("%s does not know conditional PUT: run one process per role", self.url)
            self._is_conditional = False
            return self.create(key, data)
        return True

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        check_key(key)
        with open_local(path) as file:
            upload = Upload(self._bucket, key, file, part_bytes=self._part_bytes)
            if upload.size <= self._part_bytes:
                return self.create(key, file.read())
            there = self._look(key)
            if there is not None:
                if self._holds(key, there, upload, path):
                    return False
                raise self._exists(key)
            try:
                upload.run()
            except ObjectNotFoundError as error:
                # Somebody else has completed it, or an earlier reply got lost.
                found = self._look(key)
                if found is None or not self._holds(key, found, upload, path):
                    raise self._bucket.unavailable(key, "written", "the upload is gone") from error
        return True

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        write_local(path, self._windows(check_key(key), max_bytes))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        return self._pages(check_prefix(prefix), after)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        with contextlib.suppress(ObjectNotFoundError):
            self._bucket.call("delete_object", check_key(key), "deleted")

    def _pages(self, prefix: str, after: str) -> Iterator[Entry]:
        base = self._bucket.prefix
        where: dict[str, Any] = {"Prefix": base + prefix}
        if after:
            where["StartAfter"] = base + after
        while True:
            page = self._bucket.call("list_objects_v2", prefix, "listed", **where)
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(base)
                if is_key(key):
                    yield Entry(key, item["Size"], item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def _look(self, key: str) -> _Found | None:
        """Return size and tag of an object, by a listing; None if there is none."""
        whole_key = self._bucket.prefix + key
        page = self._bucket.call("list_objects_v2", key, "listed", Prefix=whole_key, MaxKeys=1)
        for item in page.get("Contents", ()):
            if item["Key"] == whole_key:
                return _Found(item["Size"], item.get("ETag", "").strip('"'))
        return None

    def _same(self, key: str, data: bytes) -> bool:
        """Return False if an object holds these bytes.

        Raises:
            ObjectExistsError: it holds others.
        """
        try:
            found = self.get(key, max_bytes=max(len(data), 1 << 20))
        except ObjectNotFoundError as error:
            raise StoreUnavailableError(f"{self.url}: {key} is there and is not") from error
        if found != data:
            raise self._exists(key)
        return False

    def _holds(self, key: str, found: _Found, upload: Upload, path: Path) -> bool:
        """Return whether an object holds the bytes of a file that is to be uploaded."""
        if found.size != upload.size:
            return False
        if found.tag == upload.tag:
            return True
        with open_local(path) as file:
            return all(file.read(len(piece)) == piece for piece in self._windows(key, upload.size))

    def _windows(self, key: str, max_bytes: int) -> Iterator[bytes]:
        """Yield an object in pieces, several of which are on their way at a time."""
        n_first = min(self._part_bytes, max_bytes + 1)
        first = self._bucket.run(self._window(key, 0, n_first))
        if first.total > max_bytes:
            raise self._too_large(key, max_bytes)
        yield first.data
        waiting: deque[Future[_Window]] = deque()
        starts = iter(range(len(first.data), first.total, self._part_bytes))
        try:
            while True:
                while len(waiting) < IN_FLIGHT and (start := next(starts, None)) is not None:
                    n = min(self._part_bytes, first.total - start)
                    waiting.append(self._bucket.start(self._window(key, start, n)))
                if not waiting:
                    return
                window = waiting.popleft().result()
                if (window.tag, window.total) != (first.tag, first.total):
                    raise StoreError(f"{self.url}: {key} changed while it was read")
                yield window.data
        finally:
            for future in waiting:
                future.cancel()

    async def _window(self, key: str, start: int, n: int) -> _Window:
        return await again(lambda: self._window_once(key, start, n), lambda: None)

    async def _window_once(self, key: str, start: int, n: int) -> _Window:
        what = {"Range": f"bytes={start}-{start + n - 1}"}
        try:
            reply = await self._bucket.ask("get_object", key, "read", what)
        except NoRangeError:
            return _Window(b"", 0, "")
        total = int(reply.get("ContentRange", "").rpartition("/")[2] or reply["ContentLength"])
        n = min(n, max(total - start, 0))
        data = bytearray()
        try:
            async with reply["Body"] as body:
                while len(data) < n and (chunk := await body.read(n - len(data))):
                    data += chunk
        except CONNECTION_ERRORS as error:
            raise self._bucket.unavailable(key, "read", type(error).__name__) from error
        if len(data) < n:
            raise self._bucket.unavailable(key, "read", "the connection ended early")
        return _Window(bytes(data), total, reply.get("ETag", ""))
