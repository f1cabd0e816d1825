"""SFTP against the contract, on OpenSSH; and what is SFTP's own."""

import os
import time

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import KEY, RemoteContract, races  # noqa: E402  rewritten only if imported afterwards

from fedfs.errors import (  # noqa: E402  as above
    FedfsError,
    ObjectNotFoundError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.roles.doctor.store_checks import check_own_prefix  # noqa: E402  as above
from fedfs.store import RetryingStore, open_store  # noqa: E402  as above
from fedfs.store.remote import sftp  # noqa: E402  as above
from fedfs.store.remote.sftp import SFTP  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from fedfs.store.retry import Patience  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above

SECRET = "Sup3r5ecretWord"
NO_PAUSE = Patience(8, pause=lambda _: None)


class Connected(SFTP):
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
def place(openssh, monkeypatch):
    """The server, for everything that looks into the home of its client."""
    monkeypatch.setenv("HOME", str(openssh.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return openssh


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "served"
    path.mkdir()
    return path


def files(root):
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


class TestOnOpenSSH(RemoteContract):
    @pytest.fixture
    def store(self, place, root, connected):
        self.root = root
        return FsspecStore(place.url(root), dialect=connected)

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
        assert [entry.key for entry in store.list("")] == ["a/b"]
        store.remove_empty_folder("a/")
        assert store.get("a/b", max_bytes=1) == b"1"
        store.delete("a/b")
        store.remove_empty_folder("a/")
        assert not (self.root / "a").exists()
        assert store.create("a/b", b"2")

    def test_what_a_killed_writer_left_is_removed(self, store):
        old, new = (self.root / "a" / f".fedfs-{digit * 32}.tmp" for digit in "01")
        self.put_raw(store, f"a/{old.name}", b"half")
        self.put_raw(store, f"a/{new.name}", b"half")
        os.utime(old, (0, time.time() - 25 * 3600))
        store.create("a/b", b"")
        assert not old.exists()
        assert new.exists()

    def test_no_right_to_write_is_told(self, store):
        if os.geteuid() == 0:
            pytest.skip("root may do everything")
        self.root.chmod(0o500)
        with pytest.raises(StorePermissionError, match=f"{KEY} cannot be written") as caught:
            store.create(KEY, b"1")
        assert caught.value.hint


def test_of_several_connections_one_wins(place, root):
    stores = [FsspecStore(place.url(root)) for _ in range(4)]
    for key, outcomes in races(stores, RemoteContract.n_races, start_s=60):
        assert outcomes.count("won") == 1
        assert files(root)[key] == b"%d" % outcomes.index("won")


def test_doctor_finds_that_one_writer_wins(place, root):
    found = {one.subject: one for one in check_own_prefix(open_store(place.url(root)), "sites/a/")}
    assert {one.level for one in found.values()} == {"ok"}, found
    assert "one winner in each" in found["atomic create"].text
    assert files(root) == {}


# Who is who


def failure(url, act=lambda store: store.create(KEY, b"1")):
    store = FsspecStore(url)
    with pytest.raises(FedfsError) as caught:
        act(store)
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value


def test_a_host_whose_key_is_not_known_is_refused(place, root, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    error = failure(place.url(root))
    assert str(error).startswith(f"{KEY} cannot be written: the server's host key is not")
    assert type(error) is StoreError  # which is not tried again
    (tmp_path / ".ssh").mkdir()
    other = (place.home / ".ssh" / "id_ed25519.pub").read_text()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{place.port} {other}")
    assert "host key" in str(failure(place.url(root)))
    (tmp_path / ".ssh" / "config").write_text("UserKnownHostsFile none\n")
    assert "turns the check of host keys off" in str(failure(place.url(root)))
    assert files(root) == {}


def test_a_user_without_a_key_is_refused(place, root, monkeypatch, tmp_path):
    (tmp_path / ".ssh").mkdir()
    known = (place.home / ".ssh" / "known_hosts").read_text()
    (tmp_path / ".ssh" / "known_hosts").write_text(known)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", SECRET)
    error = failure(place.url(root))
    assert isinstance(error, StorePermissionError)
    assert "does not let this user in" in str(error)
    assert SECRET not in f"{error.local_text} {error.hint}"


def test_a_name_of_the_clients_configuration_is_a_host(place, root, monkeypatch, tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        f"Host dmz\n  HostName 127.0.0.1\n  Port {place.port}\n"
        f"  IdentityFile {place.home}/.ssh/id_ed25519\n"
        f"  UserKnownHostsFile {place.home}/.ssh/known_hosts\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    store = FsspecStore(f"sftp://dmz{root}")
    assert store.create(KEY, b"1")
    assert files(root) == {KEY: b"1"}


def test_a_password_is_no_part_of_a_url(place):
    with pytest.raises(UserError, match="holds a password") as caught:
        open_store(f"sftp://me:{SECRET}@host/folder")
    assert SECRET not in f"{caught.value} {caught.value.hint}"


# What goes away


def test_a_folder_that_is_not_there_is_not_made_unless_told(place, root):
    url = place.url(root / "absent")
    error = failure(url)
    assert isinstance(error, StoreUnavailableError)
    assert "folder is not there" in str(error)
    failure(url, lambda store: list(store.list("")))
    store = FsspecStore(url, must_exist=False)
    assert list(store.list("")) == []
    assert store.create(KEY, b"1")
    assert files(root) == {f"absent/{KEY}": b"1"}


def test_a_server_that_is_not_there_may_come_back(place, root):
    store = FsspecStore(place.url(root))
    assert store.create("a", b"1")
    place.stop()
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            store.get("a", max_bytes=1)
        assert "127.0.0.1" in caught.value.local_text
    finally:
        place.start()
    assert store.get("a", max_bytes=1) == b"1"


def test_a_server_that_hangs_is_given_up(place, root, monkeypatch):
    monkeypatch.setattr(sftp, "SILENCE_S", 1.0)
    with FaultyProxy(place.port, Faults(hangs=True)) as proxy:
        port = int(proxy.endpoint.rpartition(":")[2])
        began_s = time.monotonic()
        assert isinstance(failure(place.url(root, port=port)), StoreUnavailableError)
    assert time.monotonic() - began_s < 10


def test_nothing_is_lost_on_a_line_that_breaks(place, root, tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(data)
    with FaultyProxy(place.port, Faults(seed=3, life_bytes=6 << 20)) as proxy:
        port = int(proxy.endpoint.rpartition(":")[2])
        place.know("127.0.0.1", port)
        inner = FsspecStore(place.url(root, port=port), patience=NO_PAUSE)
        store = RetryingStore(inner, NO_PAUSE)
        for number in range(4):
            store.upload(f"a/{number}", tmp_path / "source")
            store.download(f"a/{number}", tmp_path / "target", max_bytes=len(data))
            assert (tmp_path / "target").read_bytes() == data
        assert proxy.dropped > 1
    objects = {name: held for name, held in files(root).items() if not name.startswith("a/.")}
    assert objects == {f"a/{number}": data for number in range(4)}
