"""WebDAV against the contract, on Apache; and what is WebDAV's own."""

import os
import shutil
import time
import uuid

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import KEY, RemoteContract, races  # noqa: E402  rewritten only if imported afterwards

from fedfs.errors import (  # noqa: E402  as above
    FedfsError,
    ObjectNotFoundError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
    StudyError,
)
from fedfs.roles.doctor.store_checks import (  # noqa: E402  as above
    check_own_prefix,
    require_atomic_create,
)
from fedfs.store import RetryingStore  # noqa: E402  as above
from fedfs.store.remote import webdav  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from fedfs.store.retry import Patience  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above

NO_PAUSE = Patience(8, pause=lambda _: None)


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


def files(root):
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and "/.DAV/" not in f"/{name}"
    }


class TestOnApache(RemoteContract):
    test_of_many_threads_one_wins = None  # Apache looks, and then moves

    @pytest.fixture
    def store(self, url, root):
        self.root = root
        # Apache closes connections that httpx still holds: then a request is made again.
        return RetryingStore(FsspecStore(url, must_exist=False), NO_PAUSE)

    def put_raw(self, store, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        return files(self.root)

    def test_of_many_threads_few_win_and_one_content_stays(self, store):
        for key, outcomes in races([store], self.n_races, start_s=60):
            winners = [number for number, said in enumerate(outcomes) if said == "won"]
            assert winners
            assert int(store.get(key, max_bytes=9)) in winners

    def test_a_folder_is_no_object(self, store):
        store.create("a/b", b"1")
        with pytest.raises(ObjectNotFoundError):
            store.get("a", max_bytes=1)
        store.remove_empty_folder("a/")
        assert store.get("a/b", max_bytes=1) == b"1"
        store.delete("a/b")
        store.remove_empty_folder("a/")
        assert not (self.root / "a").exists()
        assert store.create("a/b", b"2")

    def test_a_folder_that_went_away_is_made_again(self, store):
        store.create("a/b/c", b"1")
        shutil.rmtree(self.root / "a")
        assert store.create("a/b/d", b"2")
        assert files(self.root) == {"a/b/d": b"2"}


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


def failure(url, act=lambda store: store.create(KEY, b"1")):
    with pytest.raises(FedfsError) as caught:
        act(FsspecStore(url, must_exist=False))
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value


def test_a_wrong_password_is_refused(url, monkeypatch):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", "Sup3r5ecretWord")
    error = failure(url)
    assert isinstance(error, StorePermissionError)
    assert "does not let this user in" in str(error)
    assert "FEDFS_STORE_PASSWORD" in error.hint
    assert "Sup3r5ecretWord" not in f"{error.local_text} {error.hint}"


def test_a_password_of_the_netrc_file_is_taken(place, url, root, monkeypatch, tmp_path):
    monkeypatch.delenv("FEDFS_STORE_PASSWORD")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login fedfs password {place.password}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert FsspecStore(url.replace("fedfs@", ""), must_exist=False).create(KEY, b"1")
    assert files(root) == {KEY: b"1"}


def test_a_folder_that_is_not_there_is_not_made_unless_told(url, root):
    store = FsspecStore(url)
    with pytest.raises(StoreUnavailableError, match="folder is not there"):
        store.create(KEY, b"1")
    assert not root.exists()


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


def test_a_server_that_hangs_is_given_up(place, monkeypatch):
    monkeypatch.setattr(webdav, "SILENCE_S", 1.0)
    with FaultyProxy(place.port, Faults(hangs=True)) as proxy:
        port = int(proxy.endpoint.rpartition(":")[2])
        began_s = time.monotonic()
        assert isinstance(failure(place.url("x", port=port)), StoreUnavailableError)
    assert time.monotonic() - began_s < 10


def test_nothing_is_lost_on_a_line_that_breaks(place, url, root, tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(data)
    with FaultyProxy(place.port, Faults(seed=3, life_bytes=6 << 20)) as proxy:
        port = int(proxy.endpoint.rpartition(":")[2])
        bad = url.replace(str(place.port), str(port))
        inner = FsspecStore(bad, must_exist=False, patience=NO_PAUSE)
        store = RetryingStore(inner, NO_PAUSE)
        for number in range(4):
            store.upload(f"a/{number}", tmp_path / "source")
            store.download(f"a/{number}", tmp_path / "target", max_bytes=len(data))
            assert (tmp_path / "target").read_bytes() == data
        assert proxy.dropped > 1
    objects = {name: held for name, held in files(root).items() if not name.startswith("a/.")}
    assert objects == {f"a/{number}": data for number in range(4)}
