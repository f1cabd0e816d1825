"""Tests that every store of fsspec has in common: connections, lines that break, silent servers."""

import os
import shutil
import time

import pytest
from store_contract import KEY, FolderBehind, races

from fedfs.errors import (
    FedfsError,
    ObjectNotFoundError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.roles.doctor.store_checks import check_own_prefix
from fedfs.store import RetryingStore
from fedfs.store.remote.store import FsspecStore
from fedfs.store.retry import Patience
from support.faulty_proxy import Faults, FaultyProxy

SECRET = "Sup3r5ecretWord"
NO_PAUSE = Patience(8, pause=lambda _: None)


def failure(url, act=lambda store: store.create(KEY, b"1"), *, must_exist=False):
    """Return the error that something ends with, which says what to do and hides its cause."""
    store = FsspecStore(url, must_exist=must_exist)
    with pytest.raises(FedfsError) as caught:
        act(store)
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value


def port_of(proxy):
    return int(proxy.endpoint.rpartition(":")[2])


def connected(kind):
    """Return a dialect with one connection for all tests; making one takes a while."""

    class Connected(kind):
        fs = None

        def open(self, url):
            fs, root = self.fs, "/" + url.split("/", 3)[3]
            if fs is None:
                fs, root = super().open(url)
            self.fs = fs
            return fs, root

    return Connected()


def check_a_stranger(error):
    assert isinstance(error, StorePermissionError)
    assert "does not let this user in" in str(error)
    assert SECRET not in f"{error.local_text} {error.hint}"


def check_one_wins(stores, raw_objects):
    for key, outcomes in races(stores, FolderBehind.n_races, start_s=60):
        assert outcomes.count("won") == 1
        assert raw_objects()[key] == b"%d" % outcomes.index("won")


def check_doctor_finds_one_winner(store):
    found = {one.subject: one for one in check_own_prefix(store, "sites/a/")}
    assert {one.level for one in found.values()} == {"ok"}, found
    assert "one winner in each" in found["atomic create"].text


def check_a_silent_server(port, url_at):
    """Check that a server which never answers is given up; ``url_at`` has its URL at a port."""
    with FaultyProxy(port, Faults(hangs=True)) as proxy:
        began_s = time.monotonic()
        assert isinstance(failure(url_at(port_of(proxy))), StoreUnavailableError)
    assert time.monotonic() - began_s < 10


def moved_over_a_bad_line(port, url_at, folder, *, n_files=4, life_bytes=6 << 20):
    """Move files up and down over a line that breaks; return what is then to be on the server."""
    data = os.urandom(3 << 20)
    (folder / "source").write_bytes(data)
    with FaultyProxy(port, Faults(seed=3, life_bytes=life_bytes)) as proxy:
        inner = FsspecStore(url_at(port_of(proxy)), must_exist=False, patience=NO_PAUSE)
        store = RetryingStore(inner, NO_PAUSE)
        for number in range(n_files):
            store.upload(f"a/{number}", folder / "source")
            store.download(f"a/{number}", folder / "target", max_bytes=len(data))
            assert (folder / "target").read_bytes() == data
        assert proxy.dropped > 1
    return {f"a/{number}": data for number in range(n_files)}


class ServedContract(FolderBehind):
    """The suite on a server before a folder.

    A store's tests give it the fixtures ``place`` (the server), ``root`` (the folder), ``url_at``
    (the URL of the store, as a function of the server's port) and ``store``.

    Attributes:
        dialect: module with the time that a server may be silent, ``SILENCE_S``.
        has_links: the folder may hold symbolic links.
    """

    dialect = None
    has_links = True

    @pytest.fixture(autouse=True)
    def _look_behind(self, root):
        self.root = root

    def test_a_folder_and_a_link_are_no_objects(self, store):
        store.create("a/b", b"1")
        if self.has_links:
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
        assert self.raw_objects(store) == {"a/b/d": b"2"}

    def test_what_a_killed_writer_left_is_removed(self, store):
        old, new = (self.root / "a" / f".fedfs-{digit * 32}.tmp" for digit in "01")
        self.put_raw(store, f"a/{old.name}", b"half")
        self.put_raw(store, f"a/{new.name}", b"half")
        os.utime(old, (0, time.time() - 25 * 3600))
        store.create("a/b", b"")
        assert not old.exists()
        assert new.exists()

    def test_a_folder_that_is_not_there_is_not_made_unless_told(self, place, url_at):
        shutil.rmtree(self.root, ignore_errors=True)
        store = FsspecStore(url_at(place.port))
        with pytest.raises(StoreUnavailableError, match="folder is not there"):
            store.create(KEY, b"1")
        assert not self.root.exists()

    def test_a_server_that_hangs_is_given_up(self, place, url_at, monkeypatch):
        monkeypatch.setattr(self.dialect, "SILENCE_S", 1)
        check_a_silent_server(place.port, url_at)

    def test_nothing_is_lost_on_a_line_that_breaks(self, place, url_at, tmp_path):
        moved = moved_over_a_bad_line(place.port, url_at, tmp_path)
        held = self.raw_objects(None)
        assert {name: data for name, data in held.items() if not name.startswith("a/.")} == moved
