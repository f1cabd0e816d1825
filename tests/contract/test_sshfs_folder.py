"""A folder that sshfs mounts, against the contract."""

import uuid

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import MountContract, races  # noqa: E402  rewritten only if imported afterwards

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


class TestOnSshfs(MountContract):
    @pytest.fixture
    def store(self, mount):
        served, point = mount
        self.root = served / uuid.uuid4().hex
        self.root.mkdir()
        return FolderStore(point / self.root.name)

    def test_of_two_mounts_one_wins(self, store, openssh, tmp_path):
        with sshfs_mount.mounted(openssh, self.root, tmp_path):
            for key, outcomes in races([store, FolderStore(tmp_path)], self.n_races):
                assert outcomes.count("won") == 1
                assert self.raw_objects(store)[key] == b"%d" % outcomes.index("won")
