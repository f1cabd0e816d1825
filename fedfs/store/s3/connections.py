"""Errors of connections to S3 servers, explained: certificates, proxies and names.

Rules:
 * What a person has to change is no :class:`~fedfs.errors.StoreUnavailableError`.
 * Proxies are named without the user and the password in their URLs.
"""

import socket
from http import HTTPStatus
from urllib.parse import urlsplit

from botocore import exceptions as boto

from fedfs.errors import StoreError, StorePermissionError, StoreUnavailableError, UserError
from fedfs.store.certificates import certificate_error
from fedfs.store.place import redact

CHECK_THE_LINE = "check the endpoint's URL, the proxy and the network"
_CA_BUNDLE = "AWS_CA_BUNDLE or --s3-ca-bundle"
_PROXY = "HTTPS_PROXY or --s3-proxy"


def explain(error: boto.BotoCoreError, what: str) -> StoreError | UserError | None:
    """Return an error that says why there is no connection, None if that is not known.

    Args:
        error: of botocore, which keeps the client's.
        what: what could not be done, the beginning of the message.
    """
    inner = error.kwargs.get("error")
    if isinstance(error, boto.ProxyConnectionError):
        proxy = redact(str(error.kwargs.get("proxy_url")))
        return _of_a_proxy(f"{what}: the proxy {proxy}", getattr(inner, "status", None))
    where = urlsplit(redact(str(error.kwargs.get("endpoint_url") or "")))
    server = f"{where.scheme}://{where.netloc}"
    if refused := certificate_error(str(inner), what, server, setting=_CA_BUNDLE):
        return refused
    if "NO_CERTIFICATE_OR_CRL_FOUND" in str(inner):
        return UserError(f"{what}: the CA bundle holds no certificate.", hint=f"check {_CA_BUNDLE}")
    if "WRONG_VERSION_NUMBER" in str(inner):
        return StoreUnavailableError(
            f"{what}: {server} does not answer with TLS.",
            hint="if it has no HTTPS, give its URL with http://",
        )
    if isinstance(getattr(inner, "os_error", None), socket.gaierror):
        return StoreUnavailableError(
            f"{what}: this host does not find the address of {getattr(inner, 'host', server)}.",
            hint=CHECK_THE_LINE,
        )
    return None


def _of_a_proxy(which: str, status: int | None) -> StoreError:
    if status is None:
        return StoreUnavailableError(
            f"{which} cannot be reached.", hint=f"check {_PROXY}, and whether the proxy runs"
        )
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return StorePermissionError(
            f"{which} wants a user and a password.",
            hint="give them in HTTPS_PROXY, as http://USER:PASSWORD@HOST:PORT",
        )
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return StorePermissionError(
            f"{which} refuses to connect to the server ({status}).",
            hint="whoever runs the proxy has to allow it; or name the server in NO_PROXY",
        )
    return StoreUnavailableError(
        f"{which} cannot reach the server ({status}).",
        hint="check the endpoint's URL, and whether the server runs",
    )
