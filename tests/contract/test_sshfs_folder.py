"""A folder that sshfs mounts, against the contract."""

import uuid

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import RemoteContract, races  # noqa: E402  rewritten only if imported afterwards

from fedfs.store import FolderStore  # noqa: E402  as above
from support import sshfs_mount  # noqa: E402  as above
from support.servers import skip_without  # noqa: E402  as above


@pytest.fixture(scope="module")
def mount(openssh, tmp_path_factory):
    missing = sshfs_mount.missing_programs()
    skip_without(missing, on="SSHFS", packages=sshfs_mount.PACKAGES)
    served, point = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("mount")
    with sshfs_mount.mounted(openssh, served, point):
        yield served, point


class TestOnSshfs(RemoteContract):
    @pytest.fixture
    def store(self, mount):
        served, point = mount
        self.root = served / uuid.uuid4().hex
        self.root.mkdir()
        return FolderStore(point / self.root.name)

    def put_raw(self, store, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        found = {path.relative_to(self.root).as_posix(): path for path in self.root.rglob("*")}
        assert [name for name in found if "/." in f"/{name}"] == []
        return {name: path.read_bytes() for name, path in found.items() if path.is_file()}

    def test_links_are_used(self, store):
        store.create("a", b"1")
        assert store._links is True

    def test_of_two_mounts_one_wins(self, store, openssh, tmp_path):
        with sshfs_mount.mounted(openssh, self.root, tmp_path):
            for key, outcomes in races([store, FolderStore(tmp_path)], self.n_races):
                assert outcomes.count("won") == 1
                assert self.raw_objects(store)[key] == b"%d" % outcomes.index("won")
