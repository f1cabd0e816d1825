"""Single requests to an S3 server, through s3fs.

Rules:
 * One call, one request: neither s3fs nor botocore tries again, whoever calls does.
 * A request may take as long as it likes while bytes move, and ends when none did for
   :data:`SILENCE_S`; a client's own time limits do not see that a body is not taken.
 * A forked process makes connections of its own.
 * Vendors' loggers are kept above DEBUG, where they print headers.
"""

import asyncio
import base64
import hashlib
import io
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import s3fs
from botocore.handlers import add_expect_header
from fsspec.asyn import sync

from fedfs.errors import UserError
from fedfs.store.place import S3Options
from fedfs.store.retry import Patience
from fedfs.store.s3.errors import VENDOR_ERRORS, translate

SILENCE_S = 20.0
"""Seconds without a byte that end a request, found out within a fifth more."""

_T = TypeVar("_T")
_LOGGERS = ("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "s3fs", "urllib3")
_CONNECT_S = 10.0
_CANCEL_S = 1.0
_LOOKS = 5  # at the progress of a request, in the time for which it may be silent
_CONNECTIONS = 16
_READ_BYTES = 256 << 10
_KINDS = {"list": "LIST", "get": "GET", "delete": "DELETE", "abort": "DELETE"}


class S3Client:
    """Requests for one bucket.

    Attributes:
        counts: kind of request -> how many were made.
    """

    def __init__(self, bucket: str, options: S3Options, *, silence_s: float = SILENCE_S) -> None:
        """Prepare to connect; nothing is sent.

        Raises:
            UserError: an option, a variable or a profile is unusable.
        """
        self.counts: Counter[str] = Counter()
        self._bucket = bucket
        self._options = options
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._forsaken: list[s3fs.S3FileSystem] = []
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._connect()

    def call(
        self, method: str, what: str, *, body: bytes | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Make one request.

        Args:
            method: as botocore names it.
            what: the beginning of the message if it fails.
            body: what is sent, with its MD5.
            arguments: as botocore names them, without the bucket.

        Raises:
            StoreError: it failed.
        """
        fs = self._count(method)
        file = io.BytesIO(body or b"")
        if body is not None:
            md5 = hashlib.md5(body, usedforsecurity=False).digest()
            arguments |= {"Body": file, "ContentMD5": base64.b64encode(md5).decode()}
        request = fs._call_s3(method, Bucket=self._bucket, **arguments)  # noqa: SLF001  as s3fs documents
        answer: dict[str, Any] = self._run(
            fs, request, what, lambda: 0 if file.closed else file.tell()
        )
        return answer

    def read(
        self, what: str, into: bytearray, *, n_bytes: int, check: Callable[[dict[str, Any]], None],
        **arguments: Any,
    ) -> None:  # fmt: skip
        """Append the body of one GET to ``into``; what arrived before an error stays there.

        Args:
            what: the beginning of the message if it fails.
            into: takes the body.
            n_bytes: no more than this is read.
            check: looks at the answer before its body, and raises if it is the wrong one.
            arguments: as for :meth:`call`.

        Raises:
            StoreError: it failed.
        """
        fs = self._count("get_object")

        async def read() -> None:
            answer = await fs._call_s3("get_object", Bucket=self._bucket, **arguments)  # noqa: SLF001  as above
            left, body = n_bytes, answer["Body"]
            async with body:  # what it yields is another object in older versions of aiobotocore
                check(answer)
                while left and (chunk := await body.read(min(left, _READ_BYTES))):
                    into.extend(chunk)
                    left -= len(chunk)

        self._run(fs, read(), what, lambda: len(into))

    def _run(
        self,
        fs: s3fs.S3FileSystem,
        request: Coroutine[Any, Any, _T],
        what: str,
        progress: Callable[[], int],
    ) -> _T:
        try:
            done: _T = sync(fs.loop, _watched, request, progress, self._silence_s)
        except VENDOR_ERRORS as error:
            # The vendor's error is not the cause: it may spell out headers.
            raise translate(error, what) from None
        return done

    def _count(self, method: str) -> s3fs.S3FileSystem:
        with self._lock:
            self.counts[_KINDS.get(method.partition("_")[0], "PUT")] += 1
            if self._pid != os.getpid():
                self._forsaken.append(self._fs)  # its connections are the parent's to close
                self._connect()
            return self._fs

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._fs = _file_system(self._options, self._silence_s)
        try:
            self._fs.connect()
            # Some servers and proxies never say 100, and nothing limits the wait for it.
            self._fs.s3.meta.events.unregister("before-call.s3", add_expect_header)
        except VENDOR_ERRORS as error:
            raise translate(error, "S3 cannot be used") from None


class Transfer:
    """One object on its way, in several requests."""

    def __init__(self, client: S3Client, key: str, what: str, patience: Patience) -> None:
        """Prepare it.

        Args:
            client: makes the requests.
            key: in the bucket.
            what: the beginning of the message if it fails.
            patience: with which a part of the object is tried again.
        """
        self._client = client
        self._key = key
        self._what = what
        self._patience = patience

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._client.call(method, self._what, Key=self._key, **arguments)


def _file_system(options: S3Options, silence_s: float) -> s3fs.S3FileSystem:
    if options.ca_bundle and not Path(options.ca_bundle).is_file():
        raise UserError(f"{options.ca_bundle} is no file.", hint="give the file of the CA bundle")
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": 2 * silence_s,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": _CONNECTIONS,
        "request_checksum_calculation": "when_required",  # older servers refuse the newer ones
        "response_checksum_validation": "when_required",
    }
    if options.path_style is not None:
        config["s3"] = {"addressing_style": "path" if options.path_style else "virtual"}
    if options.proxy:
        config["proxies"] = {"http": options.proxy, "https": options.proxy}
    region = options.region or os.environ.get("AWS_REGION")  # which botocore does not look at
    client = {
        "endpoint_url": options.endpoint_url,
        "region_name": region,
        "verify": options.ca_bundle,
    }
    fs = s3fs.S3FileSystem(
        config_kwargs=config,
        client_kwargs={name: value for name, value in client.items() if value},
        use_listings_cache=False,
        skip_instance_cache=True,
        **({"profile": options.profile} if options.profile else {}),
    )
    fs.retries = 1
    return fs


async def _watched(
    request: Coroutine[Any, Any, _T], progress: Callable[[], int], silence_s: float
) -> _T:
    """Return what a request returns, or end it when there is no progress."""
    task, reached, silent = asyncio.ensure_future(request), progress(), 0
    try:
        while not (await asyncio.wait({task}, timeout=silence_s / _LOOKS))[0]:
            silent = silent + 1 if progress() == reached else 0
            reached = progress()
            if silent == _LOOKS:
                break
        else:
            return task.result()
    finally:
        if task.cancel():
            await asyncio.wait({task}, timeout=_CANCEL_S)
    raise TimeoutError(f"nothing came or went for {silence_s:g} s")
