"""SFTP against the contract, on OpenSSH; and what is SFTP's own."""

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import KEY, RemoteContract  # noqa: E402  rewritten only if imported afterwards

from fedfs.store.remote.sftp import SFTP  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above


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
    """The server, for everything that looks into its home."""
    monkeypatch.setenv("HOME", str(openssh.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return openssh


def files(root):
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


class TestOnOpenSSH(RemoteContract):
    @pytest.fixture
    def store(self, place, tmp_path, connected):
        self.root = tmp_path / "served"
        self.root.mkdir()
        return FsspecStore(place.url(self.root), dialect=connected)

    def put_raw(self, store, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        return files(self.root)
