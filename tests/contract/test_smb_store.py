"""SMB against the contract, on Samba; and what is SMB's own."""

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import smbclient

pytest.register_assert_rewrite("served_contract", "store_contract")

from served_contract import (  # noqa: E402  rewritten only if imported afterwards
    SECRET,
    ServedContract,
    check_a_stranger,
    check_doctor_finds_one_winner,
    check_one_wins,
    connected,
    failure,
    port_of,
)
from smbprotocol.exceptions import SMBOSError  # noqa: E402  as below
from smbprotocol.header import NtStatus  # noqa: E402  as below
from store_contract import KEY, files  # noqa: E402  as above

from fedfs.errors import (  # noqa: E402  as above
    ObjectExistsError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store import open_store  # noqa: E402  as above
from fedfs.store.remote import smb  # noqa: E402  as above
from fedfs.store.remote.smb import SMB  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above


@pytest.fixture(scope="module")
def dialect():
    return connected(SMB)


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


@pytest.fixture
def url_at(place, url):
    return lambda port: url.replace(str(place.port), str(port))


class TestOnSamba(ServedContract):
    dialect = smb

    @pytest.fixture
    def store(self, url, dialect):
        return FsspecStore(url, must_exist=False, dialect=dialect)


def test_of_several_connections_one_wins(url, root):
    stores = [FsspecStore(url, must_exist=False) for _ in range(4)]
    check_one_wins(stores, lambda: files(root))


def test_doctor_finds_that_one_writer_wins(url, root):
    check_doctor_finds_one_winner(open_store(url, must_exist=False))
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


@pytest.mark.parametrize("user", ["", "nobody-of-this-name", "HOSPITAL%3Bme"])
def test_a_wrong_password_is_refused(place, monkeypatch, user):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", SECRET)
    error = failure(place.url("x", user=user))
    check_a_stranger(error)
    assert "FEDFS_STORE_PASSWORD" in error.hint


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


def test_a_server_that_falls_silent_at_the_login_is_given_up(place, url_at, monkeypatch):
    monkeypatch.setattr(smb, "SILENCE_S", 1)
    register = smbclient.register_session
    with FaultyProxy(place.port, Faults()) as proxy:

        def fall_silent(*args, **options):
            proxy.faults = Faults(hangs=True)
            return register(*args, **options)

        monkeypatch.setattr(smbclient, "register_session", fall_silent)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(failure, url_at(port_of(proxy)))
            try:
                assert isinstance(asked.result(timeout=20), StoreUnavailableError)
            finally:
                proxy.stop()


def test_a_socket_that_is_closed_while_one_sends_is_a_lost_connection():
    closed = OSError(errno.EBADF, os.strerror(errno.EBADF))
    error = SMB().translate(closed, "a cannot be written", "smb://host/share")
    assert isinstance(error, StoreUnavailableError)


def test_each_connection_is_a_client_of_its_own_to_the_server(place, url):
    # Samba has one process serve all that say that they are the same, where one waits for another.
    clients = set()
    for _ in range(2):
        fs, _ = SMB().open(url.rpartition("/")[0])
        clients.add(fs.connection.client_guid)
    assert len(clients) == 2


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
