"""Places of stores, as people name them.

Rules:
 * Credentials are no part of a place: they come from the usual AWS variables and files.
 * Nothing here imports an S3 client.
"""

import re
from dataclasses import dataclass

from fedfs.errors import MalformedError, UserError
from fedfs.protocol.layout import check_key

_USER_INFO = re.compile(r"//[^/\s]*@")
_PLAIN_USER = re.compile(r"(?!s3:|https?:)[a-z0-9+.-]+://[\w.-]+@[^@]*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
S3_HINT = "give s3://BUCKET/PREFIX, for example s3://hospitals/organ-study"


def redact(text: str) -> str:
    """Return ``text`` without the user names and passwords of the URLs in it."""
    return _USER_INFO.sub("//***@", text)


@dataclass(frozen=True, repr=False)
class S3Options:
    """Options for reaching an S3 server; what is None comes from the usual AWS variables and files.

    Attributes:
        endpoint_url: URL of the server, AWS itself by default.
        region: name of its region.
        profile: section of ``~/.aws/config`` and ``~/.aws/credentials``.
        path_style: True for ``https://host/bucket/key``, False for ``https://bucket.host/key``.
            By default the former where an endpoint is given.
        ca_bundle: file with the certificates to trust.
        proxy: URL of a proxy.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    ca_bundle: str | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return redact(f"S3Options({', '.join(given)})")


@dataclass(frozen=True, repr=False)
class StorePlace:
    """A store as a command line names it.

    Attributes:
        url: path of a folder, ``file://`` or ``s3://`` URL, or one that fsspec knows.
        s3: how to reach the server of an ``s3://`` URL.
    """

    url: str
    s3: S3Options = S3Options()

    def __str__(self) -> str:
        return self.url if _PLAIN_USER.fullmatch(self.url) else redact(self.url)

    @property
    def is_folder(self) -> bool:
        """It is a folder of this host, mounted or not."""
        return "://" not in self.url or self.url.startswith("file://")

    def __repr__(self) -> str:
        return f"StorePlace({str(self)!r}, {self.s3!r})"


def split_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix, which is empty or ends with ``/``, of ``s3://bucket/prefix``.

    Raises:
        UserError: it has none, or holds credentials.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if "@" in url:
        raise UserError(
            "The s3:// URL holds a user name or a key.",
            hint="leave it out; credentials come from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or from the profile that AWS_PROFILE names",
        )
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{url!r} names no bucket.", hint=S3_HINT)
    prefix = prefix.rstrip("/")
    if not prefix:
        return bucket, ""
    try:
        return bucket, check_key(prefix) + "/"
    except MalformedError as error:
        raise UserError(
            f"{url!r} has a prefix that cannot be used: {error.reason}.", hint=S3_HINT
        ) from None
