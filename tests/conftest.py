from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fedfs.simulation.hosts import LENIENT_POLICY
from support import (
    azure_server,
    dav_server,
    forward_proxy,
    https_front,
    s3_server,
    slurm_node,
    smb_server,
    ssh_server,
)
from support.courier import Courier
from support.federation import Federation
from support.servers import skip_without

# No deadline: machines are shared. In CI always the same examples, so that a change is tested and
# not the luck of the day; at a desk new ones every time.
settings.register_profile("fedfs", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("fedfs")

# No file and no variable of the machine's own fedfs.
_HOME = tempfile.TemporaryDirectory()
os.environ |= {"FEDFS_HOME": _HOME.name, "FEDFS_SYSTEM_CONFIG": ""}
# Sites of tests are small, and some let others score their models.
os.environ["FEDFS_SITE_POLICY"] = str(Path(_HOME.name, "lenient-policy.toml"))
Path(os.environ["FEDFS_SITE_POLICY"]).write_text(LENIENT_POLICY)
os.environ.pop("FEDFS_STORE", None)
os.environ.pop("FEDFS_SITE", None)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Three sites, joined and approved; nothing done yet."""
    return Federation(tmp_path).start()


@pytest.fixture
def ready(tmp_path: Path) -> Courier:
    """A federation whose courier is about to bring the plan and version 0."""
    courier = Courier(tmp_path)
    courier.join()
    for name in ("east", "south", "aggregator"):
        courier.federation.run_process(name)
    courier.carry("for")
    courier.federation.run_process("north")
    courier.carry("from")
    courier.federation.run_process("aggregator")
    return courier


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call in this process what fedfs and nnU-Net start processes for: each imports for seconds."""
    from support.one_process import fork_pools, run_children_here  # noqa: PLC0415  all roles

    run_children_here(monkeypatch)
    fork_pools(monkeypatch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("FEDFS_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real images at {path}; set FEDFS_TEST_DATA to run this test")
    return path


@pytest.fixture(scope="session")
def ceph() -> Iterator[s3_server.CephServer]:
    """A real S3 server; tests that use it carry ``pytest.mark.xdist_group("ceph")``."""
    skip_without(s3_server.missing_programs(), on="S3", packages=s3_server.PACKAGES)
    with s3_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def nginx(ceph: s3_server.CephServer) -> Iterator[https_front.HttpsFront]:
    """HTTPS before the S3 server."""
    skip_without(https_front.missing_programs(), on="HTTPS", packages=https_front.PACKAGES)
    with https_front.HttpsFront(ceph.port) as front:
        yield front


@pytest.fixture(scope="session")
def squid(nginx: https_front.HttpsFront) -> Iterator[forward_proxy.ForwardProxy]:
    """A proxy that connects to the good port of nginx only."""
    skip_without(forward_proxy.missing_programs(), on="A PROXY", packages=forward_proxy.PACKAGES)
    with forward_proxy.ForwardProxy([nginx.ports["good"]]) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def one_node() -> Iterator[slurm_node.SlurmNode]:
    """A real SLURM; tests that use it carry ``pytest.mark.xdist_group("slurm")``."""
    skip_without(slurm_node.missing_programs(), on="SLURM", packages=slurm_node.PACKAGES)
    with slurm_node.running() as node:
        yield node


@pytest.fixture
def slurm(one_node: slurm_node.SlurmNode, monkeypatch: pytest.MonkeyPatch) -> slurm_node.SlurmNode:
    """The same, for everything that looks at the variables."""
    for name, value in one_node.environment.items():
        monkeypatch.setenv(name, value)
    return one_node


@pytest.fixture(scope="session")
def azurite() -> Iterator[azure_server.AzureServer]:
    """An emulator of Azure Blob Storage."""
    missing = azure_server.missing_programs()
    if missing:
        pytest.skip(f"NOT TESTED ON AZURE: {missing[0]} not found; {azure_server.INSTALL}")
    with azure_server.AzureServer() as server:
        yield server


@pytest.fixture(scope="session")
def openssh() -> Iterator[ssh_server.SshServer]:
    """A real SSH server, and the home of a client that knows it."""
    skip_without(ssh_server.missing_programs(), on="SFTP", packages=ssh_server.PACKAGES)
    with ssh_server.SshServer() as server:
        yield server


@pytest.fixture(scope="session")
def apache() -> Iterator[dav_server.DavServer]:
    """A real WebDAV server."""
    skip_without(dav_server.missing_programs(), on="WEBDAV", packages=dav_server.PACKAGES)
    with dav_server.DavServer() as server:
        yield server


@pytest.fixture(scope="session")
def samba() -> Iterator[smb_server.SmbServer]:
    """A real SMB server."""
    skip_without(smb_server.missing_programs(), on="SMB", packages=smb_server.PACKAGES)
    with smb_server.SmbServer() as server:
        yield server
