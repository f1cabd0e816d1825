"""Stores are named by path or URL; what is printed of a URL has no password in it."""

import pytest

from fedfs.errors import (
    UserError,
)
from fedfs.store import S3Options, StorePlace, open_store
from fedfs.store.place import redact, split_s3_url

SECRET = "Sup3r5ecretWord"


def test_urls_are_printed_without_passwords():
    assert redact(f"at https://me:{SECRET}@host:1/x@y, or") == "at https://***@host:1/x@y, or"
    assert redact(f"//{SECRET}@@b") == "//***@b"
    assert redact("s3://bucket/a@b") == "s3://bucket/a@b"
    place = StorePlace(
        f"s3://k:{SECRET}@b", S3Options(f"http://{SECRET}@h", proxy=f"//a:{SECRET}@")
    )
    assert SECRET not in f"{place} {place!r} {place.s3!r}"
    for url in (f"sftp://me:{SECRET}@host/a", f"https://{SECRET}@host/a", f"sftp://a@{SECRET}@h/a"):
        assert SECRET not in f"{StorePlace(url)} {StorePlace(url)!r}"
    assert str(StorePlace("sftp://fedfs@host:22/a")) == "sftp://fedfs@host:22/a"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b", ("bucket", "a/b/")),
        ("s3://bucket/a/b/", ("bucket", "a/b/")),
    ],
)
def test_bucket_and_prefix(url, expected):
    assert split_s3_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("s3://", "s3:///prefix", "s3://b", "s3://bucket/a//b", "s3://bucket/../x"),
        *("s3://bucket/a?versionId=1", f"s3://key:{SECRET}@bucket/a", "s3://bu cket/a"),
        *("nobody://host/a", "http://host/bucket", f"https://me:{SECRET}@host/bucket"),
        *(f"sftp://me:{SECRET}@host/a", "sftp://host", "sftp:///a", "sftp://host:x/a"),
        *("sftp://host/a?b", "zip://a::sftp://host/a", "memory://a", "data://a", "local://a"),
    ],
)
def test_places_that_are_refused(url):
    with pytest.raises(UserError) as caught:
        list(open_store(url).list(""))
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.hint}"


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


def test_a_store_is_named_by_path_or_url(root, monkeypatch, tmp_path):
    with_space = tmp_path / "my store"
    with_space.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("store", "./store/", "~/store", str(root), root.as_uri(), f"file://{root}/"):
        assert open_store(text).url == root.as_uri()
        assert open_store(text).watch_path() == root
    assert open_store(with_space.as_uri()).watch_path() == with_space
    assert open_store("file://localhost" + str(root)).watch_path() == root


@pytest.mark.parametrize("text", ["", "https://host/study", "file://host/share", "file://", "a\0b"])
def test_places_that_this_version_does_not_know(text):
    with pytest.raises(UserError) as caught:
        open_store(text)
    assert caught.value.hint
