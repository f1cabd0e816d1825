"""A large file on its way into a bucket, in parts.

It goes on where it stopped, also in another process: parts that the server holds, and that have
the MD5 of ours, are not sent again. Parts are read when they are sent: memory is that of a few.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
from collections import deque
from collections.abc import Mapping
from typing import BinaryIO

from fedfs.errors import ObjectNotFoundError, StorePermissionError, StoreUnavailableError
from fedfs.store.bucket import Bucket, NotImplementedHereError, again

log = logging.getLogger(__name__)

IN_FLIGHT = 4
"""Parts of an object that are on their way at a time."""

_MAX_PARTS = 10_000


class Upload:
    """One file on its way.

    Args:
        bucket: where to.
        key: of the object.
        file: open for reading.
        part_bytes: of each part but the last; more if there would be too many.
    """

    def __init__(self, bucket: Bucket, key: str, file: BinaryIO, *, part_bytes: int) -> None:
        self._bucket = bucket
        self._key = key
        self._fd = file.fileno()
        self.size = os.fstat(self._fd).st_size
        self._part_bytes = max(part_bytes, -(-self.size // _MAX_PARTS))
        self._numbers = range(1, -(-self.size // self._part_bytes) + 1)
        self._in_flight = IN_FLIGHT

    @property
    def tag(self) -> str:
        """The tag that servers give an object of these parts."""
        parts = hashlib.md5(usedforsecurity=False)
        for number in self._numbers:
            parts.update(md5(self._part(number)))
        return f"{parts.hexdigest()}-{len(self._numbers)}"

    def run(self) -> None:
        """Upload what the server does not have yet, and make an object of it.

        Raises:
            ObjectNotFoundError: the upload is gone: somebody has completed or aborted it.
            StoreError: the object is not there. What has arrived stays for the next attempt if
                there is any hope, and is discarded if not.
        """
        upload_id, there = self._begin()
        try:
            tags = self._bucket.run(self._send(upload_id, there))
            parts = [{"PartNumber": n, "ETag": tags[n]} for n in self._numbers]
            self._bucket.call(
                "complete_multipart_upload", self._key, "written", UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )  # fmt: skip
        except (StoreUnavailableError, ObjectNotFoundError):
            raise
        except Exception:
            with contextlib.suppress(Exception):
                self._bucket.call(
                    "abort_multipart_upload", self._key, "written", UploadId=upload_id
                )
            raise

    def _begin(self) -> tuple[str, dict[int, str]]:
        """Return an upload of this file and the parts of it that the server has; or a new one."""
        whole_key = self._bucket.prefix + self._key
        with contextlib.suppress(
            StorePermissionError, NotImplementedHereError, ObjectNotFoundError
        ):
            reply = self._bucket.call(
                "list_multipart_uploads", self._key, "looked for", Prefix=whole_key
            )
            begun = [item for item in reply.get("Uploads", ()) if item["Key"] == whole_key]
            if begun:
                newest = max(begun, key=lambda item: item["Initiated"])["UploadId"]
                return newest, self._arrived(newest)
        reply = self._bucket.call("create_multipart_upload", self._key, "written")
        return reply["UploadId"], {}

    def _arrived(self, upload_id: str) -> dict[int, str]:
        """Return number -> tag of the parts that the server has and that are the file's."""
        out: dict[int, str] = {}
        marker = 0
        while True:
            page = self._bucket.call(
                "list_parts", self._key, "looked for", UploadId=upload_id, PartNumberMarker=marker
            )
            for part in page.get("Parts", ()):
                number, tag = part["PartNumber"], part["ETag"]
                if number in self._numbers and tag.strip('"') == md5(self._part(number)).hex():
                    out[number] = tag
            if not page.get("IsTruncated"):
                break
            marker = page["NextPartNumberMarker"]
        if out:
            log.info("%s: %d of %d parts are there", self._key, len(out), len(self._numbers))
        return out

    async def _send(self, upload_id: str, there: Mapping[int, str]) -> dict[int, str]:
        tags = dict(there)
        running: set[asyncio.Task[tuple[int, str]]] = set()
        missing = deque(number for number in self._numbers if number not in tags)
        try:
            while missing or running:
                while missing and len(running) < self._in_flight:
                    number = missing.popleft()
                    running.add(asyncio.create_task(self._send_part(upload_id, number)))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                tags.update(task.result() for task in done)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return tags

    async def _send_part(self, upload_id: str, number: int) -> tuple[int, str]:
        data = self._part(number)
        what = {
            "UploadId": upload_id,
            "PartNumber": number,
            "Body": data,
            "ContentMD5": md5_header(data),
        }
        reply = await again(
            lambda: self._bucket.ask("upload_part", self._key, "written", what), self._slow_down
        )
        return number, reply["ETag"]

    def _slow_down(self) -> None:
        """Send one part after the other: several at once may be too much for a slow line."""
        self._in_flight = 1

    def _part(self, number: int) -> bytes:
        return os.pread(self._fd, self._part_bytes, (number - 1) * self._part_bytes)


def md5(data: bytes) -> bytes:
    """Return the MD5 that S3 checks transfers by; it protects against accidents only."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def md5_header(data: bytes) -> str:
    """Return it as S3's header wants it."""
    return base64.b64encode(md5(data)).decode()
