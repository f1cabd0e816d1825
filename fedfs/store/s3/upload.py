"""A large file to S3, in parts.

Rules:
 * Few parts are in memory at a time, and each is tried again on its own. Once a part has failed,
   parts are repeated one after the other: a line that drops often gets a whole part through.
 * An upload that broke off, with the connection or with the process, is found by its key and goes
   on: parts that the server holds are not sent again if size and MD5 are those of the file.
 * Readers see nothing before the last request. An upload that failed for good is aborted.
"""

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from fedfs.errors import FedfsError, StoreError, StorePermissionError, StoreUnavailableError
from fedfs.store.ahead import in_order
from fedfs.store.local_files import local_chunks
from fedfs.store.retry import Patience
from fedfs.store.s3.client import S3Client, Transfer
from fedfs.store.s3.errors import RefusedError

_log = logging.getLogger(__name__)

_MIB = 1 << 20


class Source:
    """A local file, cut into parts that depend on nothing but its size.

    Attributes:
        file: the open file.
        size: its length in bytes.
        part_bytes: length of all parts but the last.
    """

    def __init__(self, file: BinaryIO, part_bytes: int, max_parts: int) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        least = -(-self.size // max_parts)
        self.part_bytes = max(part_bytes, -(-least // _MIB) * _MIB)

    def parts(self) -> Iterator[bytes]:
        """Yield the parts.

        Raises:
            SetupError: reading fails.
        """
        held = bytearray()
        for chunk in local_chunks(self.file):
            held += chunk
            if len(held) >= self.part_bytes:
                yield bytes(held[: self.part_bytes])
                del held[: self.part_bytes]
        if held:
            yield bytes(held)


def multipart_etag(source: Source) -> str:
    """Return the entity tag that most servers give to the file if it is uploaded in its parts."""
    digests = [_md5(part).digest() for part in source.parts()]
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


class Upload(Transfer):
    """The upload of one file to one key."""

    def __init__(self, client: S3Client, key: str, what: str, patience: Patience) -> None:
        super().__init__(client, key, what, patience)
        self._one_by_one = threading.Lock()
        self._sent: list[int] = []
        self._failure: StoreUnavailableError | None = None

    def send(self, source: Source, *, at_once: int) -> bool:
        """Send what the server does not hold, and create the object.

        Returns:
            False if the server says that the key is taken.

        Raises:
            StoreUnavailableError: it broke off; the next call goes on from there.
            StoreError: it failed.
            SetupError: the file cannot be read.
        """
        upload_id, held = self._unfinished()
        if upload_id is None:
            upload_id = self._call("create_multipart_upload")["UploadId"]
        try:
            parts = self._send_parts(source, upload_id, held, at_once)
            return self._complete(upload_id, parts)
        except StoreUnavailableError:
            raise
        except FedfsError:
            self._abort(upload_id)
            raise

    def _unfinished(self) -> tuple[str | None, dict[int, tuple[int, str]]]:
        """Return the newest unfinished upload of the key, and size and tag of its parts."""
        try:
            answer = self._client.call("list_multipart_uploads", self._what, Prefix=self._key)
            mine = [item for item in answer.get("Uploads", []) if item["Key"] == self._key]
            if not mine:
                return None, {}
            upload_id = max(mine, key=lambda item: item["Initiated"])["UploadId"]
            held = self._held(upload_id)
        except (StorePermissionError, RefusedError) as error:
            _log.debug("unfinished uploads are not resumed: %s", error)
            return None, {}
        _log.info("%s: an upload is resumed, of which %d parts are there", self._key, len(held))
        return upload_id, held

    def _held(self, upload_id: str) -> dict[int, tuple[int, str]]:
        held: dict[int, tuple[int, str]] = {}
        where: dict[str, Any] = {}
        while True:
            page = self._call("list_parts", UploadId=upload_id, **where)
            for part in page.get("Parts", []):
                held[part["PartNumber"]] = (part["Size"], part["ETag"])
            if not page.get("IsTruncated"):
                return held
            where = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def _send_parts(
        self, source: Source, upload_id: str, held: dict[int, tuple[int, str]], at_once: int
    ) -> list[dict[str, Any]]:
        calls = (
            partial(self._send_part, upload_id, number, data, held.get(number, (-1, "")))
            for number, data in enumerate(source.parts(), 1)
        )
        tags = in_order(calls, at_once=at_once)
        return [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]

    def _send_part(self, upload_id: str, number: int, data: bytes, there: tuple[int, str]) -> str:
        size, tag = there
        if size == len(data) and tag.strip('"') == _md5(data).hexdigest():
            return tag
        where = {"UploadId": upload_id, "PartNumber": number}
        alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

        def attempt() -> str:
            nonlocal alone
            with alone:
                alone = self._one_by_one
                if self._failure is not None:  # of another part, which was tried often enough
                    raise self._failure
                tag = str(self._call("upload_part", **where, body=data)["ETag"])
            self._sent.append(number)
            return tag

        try:
            return self._patience.repeat(attempt, progress=lambda: len(self._sent))
        except StoreUnavailableError as error:
            self._failure = error
            raise

    def _complete(self, upload_id: str, parts: list[dict[str, Any]]) -> bool:
        """Create the object, exclusively where the server can."""
        arguments = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        try:
            self._call("complete_multipart_upload", **arguments, IfNoneMatch="*")
        except RefusedError as error:
            if error.key_is_taken:
                self._abort(upload_id)
                return False
            if not error.not_implemented:
                raise
            self._call("complete_multipart_upload", **arguments)
        return True

    def _abort(self, upload_id: str) -> None:
        with contextlib.suppress(StoreError):
            what = f"{self._what}, and its parts cannot be removed"
            self._client.call("abort_multipart_upload", what, Key=self._key, UploadId=upload_id)


def _md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)
