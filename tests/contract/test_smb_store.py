"""SMB against the contract, on Samba; and what is SMB's own."""

import os
import shutil
import time
import uuid

import pytest

pytest.register_assert_rewrite("store_contract")

from smbprotocol.exceptions import SMBOSError  # noqa: E402  as below
from smbprotocol.header import NtStatus  # noqa: E402  as below
from store_contract import KEY, RemoteContract, races  # noqa: E402  rewritten only if imported afterwards

from fedfs.errors import (  # noqa: E402  as above
    FedfsError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.roles.doctor.store_checks import check_own_prefix  # noqa: E402  as above
from fedfs.store import RetryingStore, open_store  # noqa: E402  as above
from fedfs.store.remote import smb  # noqa: E402  as above
from fedfs.store.remote.smb import SMB  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from fedfs.store.retry import Patience  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above

SECRET = "Sup3r5ecretWord"
NO_PAUSE = Patience(8, pause=lambda _: None)


class Connected(SMB):
    """One connection for all tests; making one takes a while."""

    def __init__(self):
        self.fs = None

    def open(self, url):
        fs, root = super().open(url) if self.fs is None else (self.fs, "/" + url.split("/", 3)[3])
        self.fs = fs
        return fs, root


@pytest.fixture(scope="module")
def connected():
    return Connected()


@pytest.fixture
def place(samba, monkeypatch):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", samba.password)
    return samba


@pytest.fixture
def url(place):
    """A folder of its own."""
    return place.url(f"organ-{uuid.uuid4().hex}")


@pytest.fixture
def root(place, url):
    return place.data / url.rpartition("/")[2]


def files(root):
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


class TestOnSamba(RemoteContract):
    @pytest.fixture
    def store(self, url, root, connected):
        self.root = root
        return FsspecStore(url, must_exist=False, dialect=connected)

    def put_raw(self, store, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        return files(self.root)

    def test_a_folder_and_a_link_are_no_objects(self, store):
        store.create("a/b", b"1")
        (self.root / "link").symlink_to("a")
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
        assert RetryingStore(store, NO_PAUSE).create("a/b/d", b"2")
        assert files(self.root) == {"a/b/d": b"2"}

    def test_what_a_killed_writer_left_is_removed(self, store):
        old, new = (self.root / "a" / f".fedfs-{digit * 32}.tmp" for digit in "01")
        self.put_raw(store, f"a/{old.name}", b"half")
        self.put_raw(store, f"a/{new.name}", b"half")
        os.utime(old, (0, time.time() - 25 * 3600))
        store.create("a/b", b"")
        assert not old.exists()
        assert new.exists()


def test_of_several_connections_one_wins(url, root):
    stores = [FsspecStore(url, must_exist=False) for _ in range(4)]
    for key, outcomes in races(stores, RemoteContract.n_races, start_s=60):
        assert outcomes.count("won") == 1
        assert files(root)[key] == b"%d" % outcomes.index("won")


def test_doctor_finds_that_one_writer_wins(url, root):
    store = open_store(url, must_exist=False)
    found = {one.subject: one for one in check_own_prefix(store, "sites/a/")}
    assert {one.level for one in found.values()} == {"ok"}, found
    assert "one winner in each" in found["atomic create"].text
    assert files(root) == {}


def test_a_server_without_links_promises_no_winner(url, root, monkeypatch):
    store = open_store(url, must_exist=False)
    assert store.promises_one_winner

    def refuse(fs, path1, path2):
        raise SMBOSError(NtStatus.STATUS_NOT_SUPPORTED, path2)

    monkeypatch.setattr(smb._FileSystem, "link", refuse)
    assert store.create(KEY, b"1")
    assert not store.promises_one_winner
    with pytest.raises(ObjectExistsError):
        store.create(KEY, b"2")
    assert files(root) == {KEY: b"1"}


# Who is who


def failure(url, act=lambda store: store.create(KEY, b"1")):
    with pytest.raises(FedfsError) as caught:
        act(FsspecStore(url, must_exist=False))
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("user", ["", "nobody-of-this-name", "HOSPITAL%3Bme"])
def test_a_wrong_password_is_refused(place, monkeypatch, user):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", SECRET)
    error = failure(place.url("x", user=user))
    assert isinstance(error, StorePermissionError)
    assert "does not let this user in" in str(error)
    assert "FEDFS_STORE_PASSWORD" in error.hint
    assert SECRET not in f"{error.local_text} {error.hint}"


def test_no_password_is_told(place, monkeypatch, tmp_path):
    monkeypatch.delenv("FEDFS_STORE_PASSWORD")
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    error = failure(place.url("x"))
    assert isinstance(error, StorePermissionError)
    assert "netrc" in error.hint


def test_a_share_that_is_not_there_is_told(place):
    error = failure(place.url("x").replace("/studies/", "/absent/"))
    assert isinstance(error, StoreUnavailableError)
    assert "no share of this name" in str(error)


# What goes away


def test_a_folder_that_is_not_there_is_not_made_unless_told(url, root):
    store = FsspecStore(url)
    with pytest.raises(StoreUnavailableError, match="folder is not there"):
        store.create(KEY, b"1")
    assert not root.exists()


def test_a_server_that_is_not_there_may_come_back(place, url):
    store = FsspecStore(url, must_exist=False)
    assert store.create("a", b"1")
    place.stop()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError) as caught:
                store.get("a", max_bytes=1)
        assert "127.0.0.1" in caught.value.local_text
    finally:
        place.start()
    assert store.get("a", max_bytes=1) == b"1"


def test_a_server_that_hangs_is_given_up(place, monkeypatch):
    monkeypatch.setattr(smb, "SILENCE_S", 1)
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
