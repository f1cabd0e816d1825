"""A folder of a WebDAV server that rclone mounts, against the contract."""

import os
import uuid

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import FolderBehind  # noqa: E402  rewritten only if imported afterwards

from fedfs.store import FolderStore  # noqa: E402  as above
from support import rclone_mount  # noqa: E402  as above
from support.servers import skip_without, wait_for  # noqa: E402  as above


@pytest.fixture(scope="module")
def mount(apache, tmp_path_factory):
    missing = rclone_mount.missing_programs()
    skip_without(missing, on="RCLONE", packages=rclone_mount.PACKAGES)
    point = tmp_path_factory.mktemp("mount")
    served = apache.data / "mounted"
    served.mkdir()
    own = apache.data.stat()
    os.chown(served, own.st_uid, own.st_gid)
    with rclone_mount.mounted(apache, "mounted", point):
        yield point


class TestOnRclone(FolderBehind):
    test_of_many_threads_one_wins = None  # several may win, or have an error: see docs/storage.md

    @pytest.fixture
    def store(self, mount):
        self.root = mount / uuid.uuid4().hex
        self.root.mkdir()
        return FolderStore(self.root)

    def test_what_is_created_reaches_the_server(self, store, apache):
        store.create("a/b", b"1")
        place = apache.data / "mounted" / self.root.name / "a" / "b"
        wait_for(
            lambda: place.is_file() and place.read_bytes() == b"1",
            at_most_s=20,
            explain=lambda: f"{place} is not there",
        )

    def test_there_are_no_links(self, store):
        store.create("a", b"1")
        assert store._links is False
