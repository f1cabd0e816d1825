"""WebDAV against the contract, on Apache; and what is WebDAV's own."""

import os
import uuid

import pytest

pytest.register_assert_rewrite("served_contract", "store_contract")

import store_contract  # noqa: E402  rewritten only if imported afterwards
from served_contract import (  # noqa: E402  as above
    NO_PAUSE,
    SECRET,
    ServedContract,
    check_a_stranger,
    failure,
)
from store_contract import KEY, races  # noqa: E402  as above

from fedfs.errors import StoreError, StudyError  # noqa: E402  as above
from fedfs.roles.doctor.store_checks import (  # noqa: E402  as above
    check_own_prefix,
    require_atomic_create,
)
from fedfs.store import RetryingStore  # noqa: E402  as above
from fedfs.store.remote import webdav  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above


@pytest.fixture
def place(apache, monkeypatch):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", apache.password)
    return apache


@pytest.fixture
def url(place):
    """A folder of its own."""
    return place.url(f"studies-{uuid.uuid4().hex}")


@pytest.fixture
def root(place, url):
    return place.data / url.rpartition("/")[2]


@pytest.fixture
def url_at(place, url):
    return lambda port: url.replace(str(place.port), str(port))


def files(root):
    found = store_contract.files(root)
    return {name: data for name, data in found.items() if "/.DAV/" not in f"/{name}"}


class TestOnApache(ServedContract):
    dialect = webdav
    has_links = False

    test_of_many_threads_one_wins = None  # Apache looks, and then moves

    @pytest.fixture
    def store(self, url):
        # Apache closes connections that httpx still holds: then a request is made again.
        return RetryingStore(FsspecStore(url, must_exist=False), NO_PAUSE)

    def put_raw(self, store, name, data):
        super().put_raw(store, name, data)
        server = self.root.parent.stat()
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, server.st_uid, server.st_gid)

    def raw_objects(self, store):
        return files(self.root)

    def test_of_many_threads_few_win_and_one_content_stays(self, store):
        for key, outcomes in races([store], self.n_races, start_s=60):
            winners = [number for number, said in enumerate(outcomes) if said == "won"]
            assert winners
            assert int(store.get(key, max_bytes=9)) in winners


def test_a_study_needs_a_single_aggregator(url):
    with pytest.raises(StudyError, match="may let several writers of one object win") as caught:
        require_atomic_create(RetryingStore(FsspecStore(url, must_exist=False)))
    assert "--one-aggregator" in caught.value.hint


def test_doctor_says_what_follows(url):
    store = RetryingStore(FsspecStore(url, must_exist=False))
    found = {one.subject: one for one in check_own_prefix(store, "sites/a/")}
    note = found.pop("atomic create")
    assert note.level == "note"
    assert note.advice.startswith("run one aggregator")
    assert {one.level for one in found.values()} == {"ok"}, found


def test_a_wrong_password_is_refused(url, monkeypatch):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", SECRET)
    error = failure(url)
    check_a_stranger(error)
    assert "FEDFS_STORE_PASSWORD" in error.hint


def test_a_password_of_the_netrc_file_is_taken(place, url, root, monkeypatch, tmp_path):
    monkeypatch.delenv("FEDFS_STORE_PASSWORD")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login fedfs password {place.password}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert FsspecStore(url.replace("fedfs@", ""), must_exist=False).create(KEY, b"1")
    assert files(root) == {KEY: b"1"}


def test_a_certificate_is_trusted_only_when_told(place, url, root, monkeypatch):
    secure = url.replace("webdav://", "webdavs://").replace(str(place.port), str(place.tls_port))
    error = failure(secure)
    assert type(error) is StoreError  # which is not tried again
    assert "authority that this host does not trust" in str(error)
    assert "SSL_CERT_FILE" in error.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(place.authority))
    assert FsspecStore(secure, must_exist=False).create(KEY, b"1")
    assert files(root) == {KEY: b"1"}


def test_a_limit_of_the_server_is_told(url, root, tmp_path):
    (tmp_path / "source").write_bytes(b"1" * ((16 << 20) + 1))
    error = failure(url, lambda store: store.upload(KEY, tmp_path / "source"))
    assert type(error) is StoreError
    assert "takes no file of this size" in str(error)
    assert files(root) == {}
