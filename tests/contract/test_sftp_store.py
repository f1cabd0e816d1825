"""SFTP against the contract, on OpenSSH; and what is SFTP's own."""

import os
from functools import partial

import pytest

pytest.register_assert_rewrite("served_contract", "store_contract")

import served_contract  # noqa: E402  rewritten only if imported afterwards
from served_contract import (  # noqa: E402  as above
    SECRET,
    ServedContract,
    check_a_stranger,
    check_doctor_finds_one_winner,
    check_one_wins,
    connected,
)
from store_contract import KEY, files  # noqa: E402  as above

from fedfs.errors import (  # noqa: E402  as above
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store import open_store  # noqa: E402  as above
from fedfs.store.remote import sftp  # noqa: E402  as above
from fedfs.store.remote.sftp import SFTP  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above

failure = partial(served_contract.failure, must_exist=True)


@pytest.fixture(scope="module")
def dialect():
    return connected(SFTP)


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


@pytest.fixture
def url_at(place, root):
    def url(port):
        place.know("127.0.0.1", port)
        return place.url(root, port=port)

    return url


class TestOnOpenSSH(ServedContract):
    dialect = sftp

    @pytest.fixture
    def store(self, place, root, dialect):
        return FsspecStore(place.url(root), dialect=dialect)

    def test_a_link_is_not_followed(self, store):
        store.create("a/b", b"1")
        (self.root / "link").symlink_to("a")
        assert [entry.key for entry in store.list("")] == ["a/b"]

    def test_no_right_to_write_is_told(self, store):
        if os.geteuid() == 0:
            pytest.skip("root may do everything")
        self.root.chmod(0o500)
        with pytest.raises(StorePermissionError, match=f"{KEY} cannot be written") as caught:
            store.create(KEY, b"1")
        assert caught.value.hint


def test_of_several_connections_one_wins(place, root):
    stores = [FsspecStore(place.url(root)) for _ in range(4)]
    check_one_wins(stores, lambda: files(root))


def test_doctor_finds_that_one_writer_wins(place, root):
    check_doctor_finds_one_winner(open_store(place.url(root)))
    assert files(root) == {}


# Who is who


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
    check_a_stranger(error)


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


def configure(place, tmp_path, monkeypatch, text):
    (tmp_path / ".ssh").mkdir()
    for name in ("known_hosts", "id_ed25519"):
        (tmp_path / ".ssh" / name).symlink_to(place.home / ".ssh" / name)
    (tmp_path / ".ssh" / "config").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "cipher"), [("", "aes256-gcm@openssh.com"), ("Ciphers aes128-ctr\n", "aes128-ctr")]
)
def test_a_cipher_of_the_processor_comes_first_where_none_is_named(
    place, root, monkeypatch, tmp_path, text, cipher
):
    configure(place, tmp_path, monkeypatch, text)
    fs, _ = SFTP().open(place.url(root))
    assert fs.client.get_extra_info("recv_cipher") == cipher


def test_requests_are_as_long_as_the_server_allows(place, root):
    (root / "a").write_bytes(b"1")
    fs, path = SFTP().open(place.url(root))
    lengths = {}
    for mode in ("rb", "wb"):
        with fs.open(f"{path}/a", mode) as file:
            lengths[mode] = file.blocksize // file.max_requests
    assert lengths == {"rb": 261_120, "wb": 261_120}  # of OpenSSH


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
