"""Requests to an S3 server through s3fs, one at a time or several, and what their errors mean.

Rules:
 * Messages name the store, the key and the server's error code; never what the server says beyond
   that, and no address with a user's name in it.
 * s3fs is asked to try once: when to try again is decided here and in :mod:`fedfs.store.retry`.
 * A process that was forked gets connections of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import aiohttp
import botocore.exceptions as boto
import s3fs
from fsspec.asyn import sync

from fedfs.errors import (
    MalformedError,
    ObjectNotFoundError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.protocol.layout import check_key

ATTEMPTS = 12
"""At each part of a large object: a line that drops twice a minute gets it through nevertheless."""

_PAUSE_S, _MAX_PAUSE_S = 0.2, 10.0
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60

_VENDOR_LOGS = ("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "s3fs", "urllib3")

_KINDS = {"upload": "put", "create": "put", "complete": "put", "abort": "delete"}
_DENIED = {
    "AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId",
    "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "403",
}  # fmt: skip
_FULL = {"EntityTooLarge", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "507"}
_MISSING = {"NoSuchKey", "NoSuchUpload", "404"}
_BUSY = {
    "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "409",
    "500", "502", "503", "504",
}  # fmt: skip
_TAKEN = {"PreconditionFailed", "412"}
_NOT_IMPLEMENTED = {"NotImplemented", "501"}
_NO_RANGE = {"InvalidRange", "416"}
_HINTS = {
    "RequestTimeTooSkewed": "this host's clock is wrong: set it by NTP",
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the credentials have expired",
}
CONNECTION_ERRORS = (
    boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError,
    boto.ResponseStreamingError, aiohttp.ClientError, asyncio.TimeoutError, TimeoutError,
    ConnectionError,
)  # fmt: skip

_T = TypeVar("_T")


class TakenError(Exception):
    """The object is there already."""


class NotImplementedHereError(Exception):
    """The server cannot do this."""


class NoRangeError(Exception):
    """The object has nothing in the range that was asked for."""


@dataclass(frozen=True)
class S3Options:
    """Where and how; what is None comes from AWS's variables and files.

    Attributes:
        endpoint_url: of the server (``AWS_ENDPOINT_URL``).
        region: (``AWS_REGION``).
        profile: of ``~/.aws/config`` and ``~/.aws/credentials`` (``AWS_PROFILE``).
        path_style: the bucket in the path rather than in the host's name.
        ca_bundle: file of certificates to trust (``AWS_CA_BUNDLE``).
        proxy: URL of a proxy (``HTTPS_PROXY``).
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    ca_bundle: str | None = None
    proxy: str | None = None


class Bucket:
    """A prefix of a bucket.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.
        options: where the server is.

    Raises:
        UserError: not such a URL, or options that cannot be used.
    """

    def __init__(self, url: str, options: S3Options) -> None:
        self._name, prefix = _split(url)
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{self._name}/{prefix}" if prefix else f"s3://{self._name}"
        self._options = options
        self._lock = threading.Lock()
        self._fs: Any = None
        self._pid = 0
        self._counts: dict[str, int] = {}
        quiet_vendor_logs()
        self._connect()

    @property
    def request_counts(self) -> dict[str, int]:
        """Kind of request -> how many this process has made: list, get, put, delete."""
        with self._lock:
            return dict(self._counts)

    def call(self, method: str, key: str, verb: str, **what: Any) -> Any:
        """Make one request about a key; see :meth:`ask`."""
        return self.run(self.ask(method, key, verb, what))

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Return what a coroutine of this bucket's gives."""
        result: _T = sync(self._connect().loop, lambda: coroutine)
        return result

    def start(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin a coroutine of this bucket's."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._connect().loop)

    async def ask(self, method: str, key: str, verb: str, what: dict[str, Any]) -> Any:
        """Make one request.

        Args:
            method: of botocore's S3 client.
            key: what it is about; added to the request unless that names a prefix.
            verb: past participle, for messages.
            what: parameters.

        Raises:
            TakenError, NotImplementedHereError, NoRangeError: the server says so.
            UserError: a parameter or an option cannot be used.
            StoreError: the store's fault.
        """
        kind = method.partition("_")[0]
        with self._lock:
            kind = _KINDS.get(kind, kind)
            self._counts[kind] = self._counts.get(kind, 0) + 1
        if "Prefix" not in what:
            what = {**what, "Key": self.prefix + key}
        call = self._connect()._call_s3  # noqa: SLF001  s3fs's way to all of S3
        try:
            return await call(method, Bucket=self._name, **what)
        except Exception as error:  # noqa: BLE001  vendors raise what they like
            self._raise(error, key, verb)

    def unavailable(self, key: str, verb: str, reason: str) -> StoreUnavailableError:
        """Return the error that says: try again."""
        return StoreUnavailableError(
            f"{self.url}: {key or 'the store'} cannot be {verb} now: {reason}",
            hint="check the network, the proxy and the endpoint",
        )

    def _connect(self) -> Any:
        with self._lock:
            if self._fs is None or self._pid != os.getpid():
                try:
                    self._fs, self._pid = _file_system(self._options), os.getpid()
                except ValueError as error:
                    raise UserError(f"{self.url}: {_redacted(str(error))}") from None
            return self._fs

    def _raise(self, error: Exception, key: str, verb: str) -> NoReturn:
        code, status = _code(error)
        if code:
            raise self._answered(code, status, key, verb) from None
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
            raise StorePermissionError(
                f"{self.url}: there are no credentials",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from None
        if isinstance(error, boto.ProfileNotFound):
            raise UserError(
                f"{self.url}: there is no such AWS profile", hint="see ~/.aws"
            ) from None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise StoreError(
                f"{self.url}: the server's certificate is not trusted",
                hint="give your hospital's certificates: --s3-ca-bundle FILE or AWS_CA_BUNDLE",
            ) from None
        if isinstance(error, CONNECTION_ERRORS):
            raise self.unavailable(key, verb, type(error).__name__) from None
        if isinstance(error, ValueError | boto.BotoCoreError):
            raise UserError(
                f"{self.url}: {_redacted(str(error))}", hint="check endpoint, region and bucket"
            ) from None
        raise StoreError(f"{self.url}: {key} cannot be {verb}: {type(error).__name__}") from None

    def _answered(self, code: str, status: str, key: str, verb: str) -> Exception:
        """Return the error for what the server answered."""
        said = {code, status}
        for known, kind in _SIGNALS:
            if said & known:
                return kind(code)
        text = f"{self.url}: {key or 'the store'} cannot be {verb}: {code}"
        if code == "NoSuchBucket":
            return StoreError(
                f"{self.url}: there is no bucket {self._name}",
                hint="create it first, or check the endpoint and the name",
            )
        if said & _MISSING:
            return ObjectNotFoundError(f"{self.url}: there is no object {key}")
        if said & _DENIED:
            hint = _HINTS.get(code, "check the credentials and the bucket's policy")
            return StorePermissionError(text, hint=hint)
        if said & _FULL:
            return StoreFullError(text, hint="raise the quota, or delete old payloads")
        if said & _BUSY or status.startswith("5"):
            return self.unavailable(key, verb, code)
        return StoreError(f"{text} ({status})")


_SIGNALS: tuple[tuple[set[str], type[Exception]], ...] = (
    (_TAKEN, TakenError), (_NOT_IMPLEMENTED, NotImplementedHereError), (_NO_RANGE, NoRangeError),
)  # fmt: skip


async def again(make: Callable[[], Awaitable[_T]], failed: Callable[[], None]) -> _T:
    """Return what a request gives, made again while the store cannot be reached.

    Args:
        make: makes the request.
        failed: called each time it failed.

    Raises:
        StoreError: as of the last attempt.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return await make()
        except StoreUnavailableError:
            failed()
            await asyncio.sleep(min(_PAUSE_S * 2**attempt, _MAX_PAUSE_S))
    return await make()


def quiet_vendor_logs() -> None:
    """Keep libraries from logging requests, whose headers are nobody's business."""
    for name in _VENDOR_LOGS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    hint = "for example s3://bucket/study"
    if "@" in parts.netloc:
        raise UserError(
            "an S3 address must not hold credentials",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{url!r} is not the address of a bucket", hint=hint)
    prefix = parts.path.strip("/")
    try:
        return parts.netloc, check_key(prefix) if prefix else ""
    except MalformedError as error:
        raise UserError(f"the prefix of {url!r} cannot be used: {error}", hint=hint) from error


def _file_system(options: S3Options) -> Any:
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
        # Older servers do not know the newer checksums; every part carries an MD5.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if options.path_style is not None:
        config["s3"] = {"addressing_style": "path" if options.path_style else "virtual"}
    if options.proxy is not None:
        config["proxies"] = {"http": options.proxy, "https": options.proxy}
    client: dict[str, Any] = {}
    if options.region is not None:
        client["region_name"] = options.region
    if options.ca_bundle is not None:
        if not Path(options.ca_bundle).is_file():
            raise UserError(f"there is no file of certificates {options.ca_bundle}")
        client["verify"] = options.ca_bundle
    more = {} if options.profile is None else {"profile": options.profile}
    file_system = s3fs.S3FileSystem(
        endpoint_url=options.endpoint_url,
        client_kwargs=client,
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
        **more,
    )
    file_system.retries = 1  # retries are ours
    return file_system


def _code(error: BaseException) -> tuple[str, str]:
    """Return the server's error code and the HTTP status as text; empty if it has not answered."""
    cause: BaseException | None = error
    while cause is not None:
        reply = getattr(cause, "response", None)
        if isinstance(reply, dict) and "Error" in reply:
            status = reply.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
            return re.sub(r"[^A-Za-z0-9]", "", str(reply["Error"].get("Code", "")))[:60], str(
                status
            )
        cause = cause.__cause__
    return "", ""


def _redacted(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", text)
