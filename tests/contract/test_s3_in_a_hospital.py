"""A bucket as hospitals reach it: HTTPS with an authority of their own, a proxy, limits."""

from __future__ import annotations

import pytest

from fedfs.errors import StoreError, StorePermissionError, StoreUnavailableError, UserError
from fedfs.store import S3Options
from fedfs.store.s3 import store as s3
from fedfs.store.s3.store import S3Store
from support.federation import Federation
from support.slow import slow

pytestmark = pytest.mark.xdist_group("ceph")

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def url(ceph, nginx, monkeypatch):
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", nginx.endpoint())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(nginx.authority))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return f"s3://{ceph.make_bucket()}/studies/organ"


def failure(url, kind, **options):
    with pytest.raises(kind) as caught:
        S3Store(url, S3Options(**options)).create("a", b"1")
    assert type(caught.value) is kind
    return f"{caught.value} {caught.value.hint}"


@slow
def test_a_study_over_https(url, tmp_path):
    federation = Federation(tmp_path, targets={"north": 1.0}, rounds=1, store=S3Store(url)).start()
    federation.run()
    assert federation.observe().state.newest == 1


def test_an_authority_has_to_be_named(url, nginx, monkeypatch):
    for bundle in (str(nginx.stranger), None):
        if bundle is None:
            monkeypatch.delenv("AWS_CA_BUNDLE")
        said = failure(url, StoreError, ca_bundle=bundle)
        assert f"certificate of {nginx.endpoint()} is signed by an authority that this host" in said
        assert "AWS_CA_BUNDLE or --s3-ca-bundle" in said


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("expired", "has expired. whoever runs the server"),
        ("other_name", "is for another name. give"),
    ],
)
def test_a_certificate_that_is_refused_says_why(url, nginx, trouble, says):
    endpoint = nginx.endpoint(trouble)
    said = failure(url, StoreError, endpoint_url=endpoint)
    assert f"the certificate of {endpoint} {says}" in said


def test_a_file_without_certificates_is_the_users(url, tmp_path):
    (tmp_path / "bundle").write_text("nothing\n")
    said = failure(url, UserError, ca_bundle=str(tmp_path / "bundle"))
    assert "the CA bundle holds no certificate. check AWS_CA_BUNDLE" in said


def test_a_server_without_https(url, ceph):
    endpoint = ceph.endpoint.replace("http:", "https:")
    said = failure(url, StoreUnavailableError, endpoint_url=endpoint)
    assert f"{endpoint} does not answer with TLS. if it has no HTTPS" in said


def test_what_limits_requests_is_told(url, nginx, tmp_path):
    (tmp_path / "file").write_bytes(b"1" * (s3.PART_BYTES + 1))
    store = S3Store(url, S3Options(endpoint_url=nginx.endpoint("limited")))
    for verb in (
        lambda: store.create("a", b"1" * (2 << 20)),
        lambda: store.upload("b", tmp_path / "file"),
    ):
        with pytest.raises(StoreError, match=r"a request of this size is refused \(413\)") as e:
            verb()
        assert "client_max_body_size 16m" in e.value.hint
    assert list(store.list("")) == []
    assert S3Store(url).upload("b", tmp_path / "file") is True


def test_a_proxy_connects_where_it_may(url, nginx, squid, monkeypatch):
    assert S3Store(url, S3Options(proxy=squid.url)).create("a", b"1") is True
    monkeypatch.setenv("HTTPS_PROXY", squid.url)
    said = failure(url, StorePermissionError, endpoint_url=nginx.endpoint("expired"))
    assert f"the proxy {squid.url} refuses to connect to the server (403)" in said
    assert "NO_PROXY" in said
    assert f"CONNECT 127.0.0.1:{nginx.ports['expired']}" in "".join(squid.requests())


def test_a_proxy_that_is_gone(url, nginx, monkeypatch):
    said = failure(url, StoreUnavailableError, proxy=NOWHERE)
    assert f"the proxy {NOWHERE} cannot be reached. check HTTPS_PROXY or --s3-proxy" in said
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.hospital.invalid:3128")
    said = failure(url, StoreUnavailableError)
    assert "does not find the address of proxy.hospital.invalid" in said
