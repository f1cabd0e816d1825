"""A store in a bucket of S3, of AWS or of whatever speaks its language.

Rules:
 * What is decided on is created by one PUT with ``If-None-Match: *``; of several writers one wins.
   Where a server does not know that header, one warning is logged and the key is looked up first:
   then only one process may write a key.
 * Files above one part go up in parts, see :mod:`fedfs.store.s3.upload`. Servers differ in whether
   that can overwrite; their keys carry the hash of the content, so equal bytes meet equal bytes.
 * Objects come down in windows, several at once, each resumed where its connection broke.
 * Whether a key exists is asked by listing it, never by HEAD: under a policy that allows as little
   as possible a missing key is forbidden, not absent.
 * Every body that is sent carries its MD5.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfs.errors import ObjectNotFoundError, ObjectTooLargeError, StoreUnavailableError
from fedfs.protocol.layout import check_key
from fedfs.store import local_files
from fedfs.store.base import Entry, Store, check_prefix, is_key
from fedfs.store.place import S3Options, split_s3_url
from fedfs.store.retry import Patience
from fedfs.store.s3.client import SILENCE_S, S3Client
from fedfs.store.s3.download import Download
from fedfs.store.s3.errors import RefusedError
from fedfs.store.s3.upload import Source, Upload, multipart_etag

WINDOW_BYTES = 8 << 20
"""Length of what one GET asks for."""
PART_BYTES = 8 << 20
"""Files above this go up in parts of this; much larger files in larger ones."""

_AT_ONCE = 4
_MAX_PARTS = 10_000

_log = logging.getLogger(__name__)


class S3Store(Store):
    """Objects in a bucket, beneath a prefix."""

    def __init__(
        self,
        url: str,
        options: S3Options = S3Options(),  # noqa: B008  frozen
        *,
        patience: Patience = Patience(attempts=4),  # noqa: B008  frozen
        silence_s: float = SILENCE_S,
    ) -> None:
        """Prepare to connect; nothing is sent.

        Args:
            url: ``s3://bucket/prefix``.
            options: how to reach the server.
            patience: with which a window of a download, or a part of an upload, is tried again.
            silence_s: how long the server may be silent.

        Raises:
            UserError: the URL, an option, a variable or a profile is unusable.
        """
        bucket, self._prefix = split_s3_url(url)
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._client = S3Client(bucket, options, silence_s=silence_s)
        self._patience = patience
        self._conditional = True
        self.request_counts: Mapping[str, int] = MappingProxyType(self._client.counts)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.Store.get`."""
        return b"".join(self._read(check_key(key), max_bytes))

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        what = f"{self.url}: {check_key(key)} cannot be written"
        put = partial(self._client.call, "put_object", what, Key=self._prefix + key, body=data)
        try:
            if self._conditional:
                put(IfNoneMatch="*")
                return True
        except RefusedError as error:
            if error.key_is_taken:
                return self._is_same(key, data)
            if not error.not_implemented:
                raise
            self._warn()
        if self._look(key):
            return self._is_same(key, data)
        put()
        return True

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        check_key(key)
        with local_files.open_local(path) as file:
            source = Source(file, PART_BYTES, _MAX_PARTS)
            if source.size <= PART_BYTES:
                return self.create(key, b"".join(local_files.local_chunks(file)))
            there = self._look(key)
            if there is None:
                what = f"{self.url}: {key} cannot be written"
                upload = Upload(self._client, self._prefix + key, what, self._patience)
                if upload.send(source, at_once=_AT_ONCE):
                    return True
                there = self._look(key)
            if there is None:
                raise StoreUnavailableError(
                    f"{self.url}: {key} was there and is gone.",
                    hint="try again; if it stays away, restore it from a backup",
                )
            if there["Size"] != source.size:
                raise self._exists(key)
            if there["ETag"].strip('"') != multipart_etag(source):
                self._compare(key, source)
            return False

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.Store.download`."""
        local_files.write_local(path, self._read(check_key(key), max_bytes), synced=False)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.Store.list`."""
        check_prefix(prefix)
        return self._pages(prefix, after)

    def delete(self, key: str) -> None:
        """See :meth:`fedfs.store.base.Store.delete`."""
        what = f"{self.url}: {check_key(key)} cannot be deleted"
        try:
            self._client.call("delete_object", what, Key=self._prefix + key)
        except RefusedError as error:
            if not error.no_such_key:
                raise

    def _pages(self, prefix: str, after: str) -> Iterator[Entry]:
        what = f"{self.url}: {prefix or 'the store'} cannot be listed"
        where: dict[str, Any] = {"StartAfter": self._prefix + after} if after else {}
        while True:
            page = self._client.call("list_objects_v2", what, Prefix=self._prefix + prefix, **where)
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._prefix)
                if key > after and is_key(key):
                    yield Entry(key, item["Size"], item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            where = {"ContinuationToken": page["NextContinuationToken"]}

    def _look(self, key: str) -> dict[str, Any] | None:
        """Return what a listing says about an object."""
        what = f"{self.url}: {key} cannot be looked up"
        full = self._prefix + key
        page = self._client.call("list_objects_v2", what, Prefix=full, MaxKeys=1)
        return next((item for item in page.get("Contents", []) if item["Key"] == full), None)

    def _is_same(self, key: str, data: bytes) -> bool:
        """Return False, as create does, if the key holds these bytes."""
        try:
            same = self.get(key, max_bytes=len(data)) == data
        except ObjectTooLargeError:
            same = False
        except ObjectNotFoundError:
            raise StoreUnavailableError(
                f"{self.url}: {key} was there and is gone.",
                hint="try again; if it stays away, restore it from a backup",
            ) from None
        if not same:
            raise self._exists(key)
        return False

    def _compare(self, key: str, source: Source) -> None:
        theirs, ours = hashlib.sha256(), hashlib.sha256()
        for chunk in self._read(key, source.size):
            theirs.update(chunk)
        for chunk in local_files.local_chunks(source.file):
            ours.update(chunk)
        if theirs.digest() != ours.digest():
            raise self._exists(key)

    def _read(self, key: str, max_bytes: int) -> Iterator[bytes]:
        what = f"{self.url}: {key} cannot be read"
        download = Download(self._client, self._prefix + key, what, self._patience)

        def check_size(total: int) -> None:
            if total > max_bytes:
                raise self._too_large(key, max_bytes)

        try:
            first = download.begin(min(WINDOW_BYTES, max_bytes + 1), check_size=check_size)
            yield first
            yield from download.rest(len(first), WINDOW_BYTES, at_once=_AT_ONCE)
        except RefusedError as error:
            if error.no_such_key:
                raise self._not_found(key) from None
            raise

    def _warn(self) -> None:
        if self._conditional:
            self._conditional = False
            _log.warning(
                "%s: this server cannot create objects exclusively; no two processes may run in "
                "the same role",
                self.url,
            )
