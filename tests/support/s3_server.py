"""A real S3 server for tests: Ceph's object gateway with its memory store, started as a user.

Rules:
 * Everything lives in one temporary folder, listens on loopback only and ends with this process.
 * Buckets and users are cheap; the server is not: one for each session, and all tests that need it
   carry ``pytest.mark.xdist_group("ceph")``.
 * The memory store keeps all that was written in RAM.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import s3fs

from support.servers import free_ports

PACKAGES = "radosgw ceph-mon ceph-osd"
REGION = "us-east-1"
_PROGRAMS = (
    *("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool"),
    *("radosgw", "radosgw-admin", "setpriv"),
)
_START_S = 60.0
_MEMORY_BYTES = 6 << 30
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.$pid.asok
log file = {folder}/$name.log
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
mon warn on pool no redundancy = false
mon allow pool size one = true
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
osd crush chooseleaf type = 0
ms bind ipv4 = true
ms bind ipv6 = false
[mon]
paxos propose interval = 0.05
paxos min wait = 0.02
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon initial members = a
mon data avail crit = 1
mon data avail warn = 1
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {memory}
osd memory target = 1073741824
osd op num shards = 2
[client]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/rgw
rgw enable usage log = false
rgw thread pool size = 64
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
rgw max concurrent requests = 256
"""
_CAPABILITIES = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "client.rgw": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"),
}


@dataclass(frozen=True)
class Credentials:
    """What a user signs requests with."""

    access_key: str
    secret_key: str = field(repr=False)


def missing_programs() -> list[str]:
    """Return the programs that this machine lacks."""
    return [name for name in _PROGRAMS if shutil.which(name) is None]


class CephServer:
    """A gateway with one user, the owner of all buckets made by :meth:`make_bucket`.

    Attributes:
        endpoint: URL of the server.
        access_key, secret_key: the owner's.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fedfs-ceph-", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._users: dict[str, Credentials] = {}
        atexit.register(self.stop)
        try:
            self.port, *monitor = free_ports(3)
            self.endpoint = f"http://127.0.0.1:{self.port}"
            self._start(*monitor)
            owner = self.add_user("owner")
        except BaseException:
            self.stop()
            raise
        self.owner = owner
        self.access_key, self.secret_key = owner.access_key, owner.secret_key

    def add_user(self, uid: str) -> Credentials:
        """Return the keys of a user, made at the first call; as principal ``user/<uid>``."""
        if uid not in self._users:
            name = uuid.uuid4().hex
            made = Credentials(f"AK{name[:16].upper()}", f"SK{name}{uuid.uuid4().hex[:6]}")
            self._call(
                *("radosgw-admin", "user", "create", f"--uid={uid}", f"--display-name={uid}"),
                *(f"--access-key={made.access_key}", f"--secret-key={made.secret_key}"),
            )
            self._users[uid] = made
        return self._users[uid]

    def client(self, credentials: Credentials | None = None) -> s3fs.S3FileSystem:
        """Return a client whose ``call_s3`` does anything that S3 knows, by default as owner."""
        who = credentials or self.owner
        return s3fs.S3FileSystem(
            key=who.access_key,
            secret=who.secret_key,
            client_kwargs={"endpoint_url": self.endpoint, "region_name": REGION},
            config_kwargs={"s3": {"addressing_style": "path"}},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def make_bucket(self, name: str = "", policy: Mapping[str, Any] | None = None) -> str:
        """Create a bucket, by default of a new name, and return its name."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        client = self.client()
        client.call_s3("create_bucket", Bucket=name)
        if policy:
            client.call_s3("put_bucket_policy", Bucket=name, Policy=json.dumps(policy))
        return name

    def environment(self, credentials: Credentials | None = None) -> dict[str, str]:
        """Return the variables with which any S3 client of this machine finds the server."""
        who = credentials or self.owner
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": who.access_key,
            "AWS_SECRET_ACCESS_KEY": who.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """End the server and remove its folder; may be called again."""
        atexit.unregister(self.stop)
        for process in reversed(self._processes):
            process.kill()  # nothing that it holds is worth saving
            process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, mon_v2: int, mon_v1: int) -> None:
        folder, keyring = self._folder, str(self._folder / "keyring")
        fsid, osd, monmap = str(uuid.uuid4()), str(uuid.uuid4()), str(folder / "monmap")
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        (folder / "ceph.conf").write_text(
            _CONFIGURATION.format(
                fsid=fsid,
                folder=folder,
                port=self.port,
                mon_v1=mon_v1,
                mon_v2=mon_v2,
                memory=_MEMORY_BYTES,
            )
        )
        create = ["--create-keyring"]
        for name, words in _CAPABILITIES.items():
            caps = [
                w for pair in zip(words[::2], words[1::2], strict=True) for w in ("--cap", *pair)
            ]
            self._call("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)
            create = []
        address = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
        new_map = ("--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monmap)
        self._call("monmaptool", *new_map)
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._spawn("ceph-mon", "-f", "-i", "a")
        self._call("ceph", "osd", "new", osd, "0")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-f", "-i", "0")
        self._spawn("radosgw", "-f", "-n", "client.rgw")
        deadline_s = time.monotonic() + _START_S
        while not _answers(self.port):
            if time.monotonic() > deadline_s or any(p.poll() is not None for p in self._processes):
                raise RuntimeError(f"Ceph did not start: {self._last_words()}")
            time.sleep(0.05)

    def _call(self, program: str, *arguments: str) -> bytes:
        done = subprocess.run(
            [program, *self._configured(program), *arguments],
            capture_output=True,
            timeout=_START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments[:2]}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self._folder / f"{program}.out").open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *self._configured(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._processes.append(process)

    def _configured(self, program: str) -> Sequence[str]:
        bare = program in ("ceph-authtool", "monmaptool")
        return () if bare else ("-c", str(self._folder / "ceph.conf"))

    def _last_words(self) -> str:
        files = sorted(self._folder.glob("*.out"))
        return "; ".join(path.read_text(errors="replace")[-300:] for path in files)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


@contextlib.contextmanager
def running() -> Iterator[CephServer]:
    """Run a server as long as the block does."""
    server = CephServer()
    try:
        yield server
    finally:
        server.stop()
