"""What an S3 server or client says, as this project's errors; and nothing secret in any of it."""

import logging
import subprocess
import sys
import traceback

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from s3fs.errors import translate_boto_error

from fedfs.errors import (
    FedfsError,
    ObjectExistsError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store import FolderStore, RetryingStore, S3Options, StorePlace, open_store
from fedfs.store.retry import Patience
from fedfs.store.s3.client import S3Client
from fedfs.store.s3.errors import RefusedError, translate
from fedfs.store.s3.store import S3Store

SECRET = "Sup3r5ecretWord"


def answer(code, status, message="words of the server"):
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "PutObject")


ANSWERS = [
    ("AccessDenied", 403, StorePermissionError, "policy"),
    ("403", 403, StorePermissionError, "policy"),
    ("SignatureDoesNotMatch", 403, StorePermissionError, "secret key"),
    ("InvalidAccessKeyId", 403, StorePermissionError, "access key"),
    ("ExpiredToken", 400, StorePermissionError, "session"),
    ("RequestTimeTooSkewed", 403, StorePermissionError, "clock"),
    ("NoSuchBucket", 404, StoreError, "bucket|make it"),
    ("QuotaExceeded", 403, StoreFullError, "quota"),
    ("InsufficientStorage", 507, StoreFullError, "space"),
    ("PermanentRedirect", 301, StoreError, "AWS_REGION"),
    ("SlowDown", 503, StoreUnavailableError, "busy"),
    ("ServiceUnavailable", 503, StoreUnavailableError, "busy"),
    ("InternalError", 500, StoreUnavailableError, "busy"),
    ("502", 502, StoreUnavailableError, "busy"),
    ("RequestTimeout", 400, StoreUnavailableError, "busy"),
    ("ConditionalRequestConflict", 409, StoreUnavailableError, "busy"),
    ("TooManyRequests", 429, StoreUnavailableError, "busy"),
    ("BadDigest", 400, StoreUnavailableError, "busy"),
    ("NoSuchUpload", 404, StoreUnavailableError, "busy"),
    ("413", 413, StoreError, "client_max_body_size"),
    ("NotImplemented", 501, RefusedError, "store"),
    ("PreconditionFailed", 412, RefusedError, "store"),
    ("NoSuchKey", 404, RefusedError, "store"),
    ("InvalidArgument", 400, RefusedError, "store"),
]


@pytest.mark.parametrize(("code", "status", "kind", "hint"), ANSWERS)
@pytest.mark.parametrize("through_s3fs", [True, False])
def test_answers(code, status, kind, hint, through_s3fs):
    error = answer(code, status)
    found = translate(translate_boto_error(error) if through_s3fs else error, "a cannot be written")
    assert type(found) is kind
    assert str(found).startswith("a cannot be written: ")
    assert any(word in found.hint for word in hint.split("|"))


def refused_by_proxy(status):
    inner = aiohttp.ClientHttpProxyError(None, (), status=status)
    return boto.ProxyConnectionError(proxy_url=ENDPOINT, error=inner)


ENDPOINT = f"https://user:{SECRET}@host:1/bucket"
FAILURES = [
    (boto.EndpointConnectionError(endpoint_url=ENDPOINT), StoreUnavailableError),
    (boto.ReadTimeoutError(endpoint_url=ENDPOINT), StoreUnavailableError),
    (boto.ConnectTimeoutError(endpoint_url=ENDPOINT), StoreUnavailableError),
    (boto.ConnectionClosedError(endpoint_url=ENDPOINT), StoreUnavailableError),
    (boto.ProxyConnectionError(proxy_url=ENDPOINT), StoreUnavailableError),
    (refused_by_proxy(403), StorePermissionError),
    (refused_by_proxy(407), StorePermissionError),
    (refused_by_proxy(503), StoreUnavailableError),
    (boto.HTTPClientError(error=OSError(ENDPOINT)), StoreUnavailableError),
    (boto.ResponseStreamingError(error=ENDPOINT), StoreUnavailableError),
    (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), StoreUnavailableError),
    (aiohttp.ClientPayloadError("not complete"), StoreUnavailableError),
    (aiohttp.ServerDisconnectedError(), StoreUnavailableError),
    (ResponseParserError("no XML"), StoreUnavailableError),
    (TimeoutError(), StoreUnavailableError),
    (ConnectionResetError(104, "reset"), StoreUnavailableError),
    (boto.SSLError(endpoint_url=ENDPOINT, error="handshake cut"), StoreUnavailableError),
    (boto.SSLError(endpoint_url=ENDPOINT, error="CERTIFICATE_VERIFY_FAILED"), StoreError),
    (boto.NoCredentialsError(), StorePermissionError),
    (boto.PartialCredentialsError(provider="env", cred_var="x"), StorePermissionError),
    (boto.ProfileNotFound(profile="absent"), UserError),
    (boto.ParamValidationError(report="bad bucket"), UserError),
    (boto.InvalidProxiesConfigError(), UserError),
    (ValueError(f"Invalid endpoint: {ENDPOINT}"), UserError),
]


@pytest.mark.parametrize(("error", "kind"), FAILURES, ids=lambda value: type(value).__name__)
def test_failures(error, kind):
    found = translate(error, "a cannot be read")
    assert type(found) is kind
    assert found.hint
    assert SECRET not in f"{found} {found.hint}"


@pytest.fixture
def no_variables(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token-{SECRET}")
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        S3Options(endpoint_url="not a url"),
        S3Options(endpoint_url=f"nonsense://a:{SECRET}@"),
        S3Options(profile="absent"),
        S3Options(ca_bundle="/absent/bundle.pem"),
        S3Options(region="not a region"),
    ],
)
def test_unusable_options_are_the_users(options, no_variables):
    with pytest.raises(UserError) as caught:
        open_store(StorePlace("s3://bucket/a", options))
    assert caught.value.hint
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_without_credentials_access_is_denied(no_variables, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(StorePermissionError, match="no credentials") as caught:
        S3Store("s3://bucket", S3Options("http://127.0.0.1:9")).create("a", b"")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_addresses_come_from_the_usual_places(no_variables, monkeypatch):
    def address(options):
        with pytest.raises(StoreUnavailableError) as caught:
            S3Store("s3://bucket/p", options).create("a", b"")
        return str(caught.value)

    (no_variables / "config").write_text(
        "[default]\nregion = eu-west-9\n"
        "[profile ward]\nendpoint_url = http://127.0.0.1:8\ns3 =\n  addressing_style = path\n"
    )
    (no_variables / "credentials").write_text(  # a profile that is given comes before variables
        f"[ward]\naws_access_key_id = AKIAWARD\naws_secret_access_key = {SECRET}\n"
    )
    assert '"http://127.0.0.1:8/bucket/p/a"' in address(S3Options(profile="ward"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9")
    assert '"http://localhost:9/bucket/p/a"' in address(S3Options())
    assert " bucket.localhost." in address(S3Options(path_style=False))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:7")
    assert '"http://localhost:7/bucket/p/a"' in address(S3Options())
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{SECRET}@127.0.0.1:6")
    monkeypatch.setenv("NO_PROXY", "")
    said = address(S3Options("http://host.example:5"))
    assert "proxy" in said
    assert SECRET not in said


def test_no_secret_is_logged_or_raised(no_variables, capfd):
    out = logging.StreamHandler()
    logging.getLogger().addHandler(out)
    before, root = logging.getLogger().level, logging.getLogger()
    root.setLevel(logging.DEBUG)
    try:
        for options in (
            S3Options(f"http://me:{SECRET}@127.0.0.1:9"),
            S3Options("http://127.0.0.1:9", proxy=f"http://me:{SECRET}@127.0.0.1:6"),
        ):
            store = RetryingStore(S3Store("s3://bucket/a", options), Patience(2, pause=print))
            for verb in (lambda s: s.create("a", b"1"), lambda s: list(s.list(""))):
                try:
                    verb(store)
                except FedfsError:
                    logging.getLogger("fedfs").exception("failed")
    finally:
        root.setLevel(before)
        root.removeHandler(out)
    written = "".join(capfd.readouterr())
    assert "Attempt 2" in written
    assert "Traceback" in written
    assert SECRET not in written


def test_users_of_folders_import_no_client(tmp_path):
    script = (
        "import sys; from fedfs.store import open_store; open_store(sys.argv[1]);"
        "sys.exit(any(m.split('.')[0] in ('s3fs', 'aiohttp', 'botocore') for m in sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
    )
    assert isinstance(open_store(StorePlace(str(tmp_path))), FolderStore)


# Servers that know less


class OldServer:
    """Objects in a dictionary, without conditions."""

    def __init__(self):
        self.objects = {}
        self.asked = []

    def call(self, method, what, *, body=None, **arguments):
        self.asked.append(method)
        if arguments.pop("IfNoneMatch", None):
            raise translate(answer("NotImplemented", 501), what)
        if method == "list_objects_v2":
            found = [{"Key": key} for key in sorted(self.objects) if key == arguments["Prefix"]]
            return {"Contents": found}
        self.objects[arguments["Key"]] = body
        return {}


def test_a_server_without_conditions_is_looked_at_first(no_variables, monkeypatch, caplog):
    server = OldServer()
    monkeypatch.setattr(S3Client, "call", lambda _, *a, **kw: server.call(*a, **kw))
    store = S3Store("s3://bucket/p")
    monkeypatch.setattr(store, "get", lambda key, **_: server.objects[f"p/{key}"])
    assert store.create("a", b"1") is True
    assert store.create("a", b"1") is False
    assert store.create("b", b"2") is True
    with pytest.raises(ObjectExistsError):
        store.create("a", b"2")
    assert server.objects == {"p/a": b"1", "p/b": b"2"}
    assert len([m for m in caplog.messages if "exclusively" in m]) == 1
