"""Errors of an S3 client, translated into this project's.

Rules:
 * Whatever may pass by itself is a :class:`~fedfs.errors.StoreUnavailableError`.
 * No text of a vendor leaves without :func:`~fedfs.store.place.redact`, and no vendor's exception
   as the cause of ours: it may spell out headers or URLs.
"""

from http import HTTPStatus

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from fedfs.errors import (
    FedfsError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store.place import redact
from fedfs.store.s3.connections import CHECK_THE_LINE, explain

VENDOR_ERRORS = (
    boto.BotoCoreError,
    boto.ClientError,
    aiohttp.ClientError,
    ResponseParserError,
    OSError,  # of s3fs, and TimeoutError
    ValueError,
)
"""All that an S3 client was seen to raise."""

_PASSING_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    aiohttp.ClientError,
    ResponseParserError,
    OSError,
)
_BAD_URLS = (aiohttp.InvalidURL, boto.InvalidProxiesConfigError)
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile that has them"
)
_POLICY = "whoever runs the store has to allow it: check the user and the bucket's policy"
_DENIED = {
    "403": f"these are not the words of S3, so a proxy in between may refuse; or {_POLICY}",
    "AccessDenied": _POLICY,
    "AllAccessDisabled": _POLICY,
    "AccountProblem": _POLICY,
    "SignatureDoesNotMatch": f"the secret key is not the access key's; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the server does not know the access key; {_CREDENTIALS}",
    "ExpiredToken": f"the session has ended; {_CREDENTIALS}",
    "InvalidToken": _CREDENTIALS,
    "TokenRefreshRequired": _CREDENTIALS,
    "RequestTimeTooSkewed": "this host's clock is wrong by more than the server tolerates: set it",
}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull"}
_ELSEWHERE = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidRegion",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_PASSING_STATUS = {408, 409, 429}
_NO_KEY = {"NoSuchKey", "404", "NotFound"}
_FORBIDDEN, _NOT_IMPLEMENTED, _SERVER, _NO_SPACE = 403, 501, 500, 507


class RefusedError(StoreError):
    """The server answered, and the answer is no.

    Attributes:
        code: the server's word for it.
        status: of HTTP.
    """

    def __init__(self, message: str, *, code: str, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status

    @property
    def no_such_key(self) -> bool:
        """Nothing is there."""
        return self.code in _NO_KEY

    @property
    def key_is_taken(self) -> bool:
        """A condition on creating it did not hold."""
        return self.status == HTTPStatus.PRECONDITION_FAILED

    @property
    def not_implemented(self) -> bool:
        """The server does not know what it was asked for."""
        return self.status == HTTPStatus.NOT_IMPLEMENTED


def translate(error: Exception, what: str) -> FedfsError:
    """Return this project's error for a vendor's.

    Args:
        error: one of :data:`VENDOR_ERRORS`.
        what: what could not be done, the beginning of the message.
    """
    for link in (error, error.__cause__):
        if isinstance(link, boto.ClientError):
            return _answer(link, what)
    if isinstance(error, boto.BotoCoreError) and (explained := explain(error, what)):
        return explained
    text = redact(str(error) or str(error.__cause__ or "")) or type(error).__name__
    message = f"{what}: {text.removesuffix('.')}."
    if isinstance(error, (boto.NoCredentialsError, boto.NoAuthTokenError)):
        return StorePermissionError(f"{what}: there are no credentials.", hint=_CREDENTIALS)
    if isinstance(
        error,
        (boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError),
    ):
        return StorePermissionError(message, hint=_CREDENTIALS)
    if isinstance(error, _PASSING_ERRORS) and not isinstance(error, _BAD_URLS):
        return StoreUnavailableError(message, hint=CHECK_THE_LINE)
    if isinstance(error, boto.ProfileNotFound):
        return UserError(message, hint="check AWS_PROFILE, or the profile given, in ~/.aws/config")
    return UserError(message, hint="check the endpoint's URL, the region and ~/.aws/config")


def _answer(error: boto.ClientError, what: str) -> StoreError:
    answer = error.response
    code = str(answer.get("Error", {}).get("Code") or "")
    text = redact(str(answer.get("Error", {}).get("Message") or ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    message = f"{what}: {code or status}{': ' if text else ''}{text.removesuffix('.')}."
    if code in _FULL or (status == _NO_SPACE and code not in _DENIED):
        return StoreFullError(message, hint="free some space, or raise the quota")
    if code in _DENIED or status == _FORBIDDEN:
        return StorePermissionError(f"{what}: {code or status}.", hint=_DENIED.get(code, _POLICY))
    if code == "NoSuchBucket":
        return StoreError(
            f"{what}: there is no such bucket.",
            hint="whoever runs the store has to make it; check its name and the endpoint's URL",
        )
    if code in _ELSEWHERE:
        return StoreError(message, hint="the bucket is in another region: set AWS_REGION")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return StoreError(
            f"{what}: a request of this size is refused (413).",
            hint="whatever lies before the bucket has to let 16 MiB through "
            "(nginx: client_max_body_size 16m)",
        )
    in_trouble = status >= _SERVER and status != _NOT_IMPLEMENTED
    if code in _PASSING or status in _PASSING_STATUS or in_trouble:
        return StoreUnavailableError(message, hint="the server is busy, or in trouble")
    return RefusedError(
        message, code=code, status=status, hint="show this to whoever runs the store"
    )
