"""Speed of each store beside the tool of its protocol, on the servers of the tests.

Each store is measured in a process of its own: objects that are created one after the other, a
listing, a large file up and down, and the memory that the transfer took. The tool moves the same
file: cp, sftp, smbclient, curl. Servers and clients share the machine, and the line is loopback.

    python bench/stores.py                        # 500 MB: half an hour on one core
    python bench/stores.py --mb 100 --creates 200 --keys 2000 --only sftp smb
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fedfs.store import open_store
from fedfs.store.base import Store
from support import azure_server, dav_server, s3_server, smb_server, ssh_server

REPEATS = 3
"""Transfers of the large file each way; the median counts."""


@dataclass(frozen=True)
class Place:
    """A store and the tool of its protocol.

    Attributes:
        url: of the store.
        put, get: command that copies a local file to a name, and back.
        served: folder behind the server, where there is one.
    """

    url: str
    put: Callable[[Path, str], list[str]]
    get: Callable[[str, Path], list[str]]
    served: Path | None = None


@contextlib.contextmanager
def folder_place(work: Path) -> Iterator[Place]:
    served = work / "served"
    yield Place(
        str(served),
        lambda path, name: ["sh", "-c", f"cp {path} {served}/{name} && sync {served}/{name}"],
        lambda name, path: ["sh", "-c", f"cp {served}/{name} {path} && sync {path}"],
        served,
    )


@contextlib.contextmanager
def sftp_place(work: Path) -> Iterator[Place]:
    with ssh_server.SshServer() as server:
        os.environ["HOME"] = str(server.home)
        served = work / "served"
        url = urlsplit(server.url(served))
        ssh = server.home / ".ssh"
        options = f"-q -o UserKnownHostsFile={ssh}/known_hosts -i {ssh}/id_ed25519 -P {url.port}"
        tool = f"sftp {options} -b - {url.username}@{url.hostname}"
        yield Place(
            url.geturl(),
            lambda path, name: ["sh", "-c", f"echo put -f {path} {served}/{name} | {tool}"],
            lambda name, path: ["sh", "-c", f"echo get -f {served}/{name} {path} | {tool}"],
            served,
        )


@contextlib.contextmanager
def smb_place(work: Path) -> Iterator[Place]:
    del work
    with smb_server.SmbServer() as server:
        os.environ["FEDFS_STORE_PASSWORD"] = server.password
        url = urlsplit(server.url("organ"))
        share = f"//127.0.0.1/{smb_server.SHARE}"
        login = f"{url.username}%{server.password}"
        tool = ["smbclient", share, "-p", str(server.port), "-U", login, "-m", "SMB3", "-c"]
        yield Place(
            url.geturl(),
            lambda path, name: [*tool, f"put {path} organ/{name}"],
            lambda name, path: [*tool, f"get organ/{name} {path}"],
            server.data / "organ",
        )


@contextlib.contextmanager
def webdav_place(work: Path) -> Iterator[Place]:
    del work
    with dav_server.DavServer(limit_bytes=0) as server:
        os.environ["FEDFS_STORE_PASSWORD"] = server.password
        there = f"http://127.0.0.1:{server.port}/organ"
        tool = ["curl", "-sSf", "-u", f"{dav_server.USER}:{server.password}"]
        yield Place(
            server.url("organ"),
            lambda path, name: [*tool, "-T", str(path), f"{there}/{name}"],
            lambda name, path: [*tool, "-o", str(path), f"{there}/{name}"],
        )


@contextlib.contextmanager
def azure_place(work: Path) -> Iterator[Place]:
    from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas

    del work
    with azure_server.AzureServer() as server:
        os.environ["AZURE_STORAGE_CONNECTION_STRING"] = server.connection()
        client = ContainerClient.from_connection_string(server.connection(), "organ")
        client.create_container()
        token = generate_container_sas(
            azure_server.ACCOUNT, "organ", account_key=server.key,
            permission=ContainerSasPermissions(read=True, write=True, create=True),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2),
        )  # fmt: skip
        tool = ["curl", "-sSf"]
        kind = ["-H", "x-ms-blob-type: BlockBlob"]
        yield Place(
            "az://organ/studies",
            lambda path, name: [*tool, *kind, "-T", str(path), f"{client.url}/{name}?{token}"],
            lambda name, path: [*tool, "-o", str(path), f"{client.url}/{name}?{token}"],
        )


@contextlib.contextmanager
def s3_place(work: Path) -> Iterator[Place]:
    del work
    with s3_server.running() as server:
        os.environ.update(server.environment())
        bucket = server.make_bucket()
        login = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
        there = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}"
        signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", login]
        tool = ["curl", "-sSf", *signed, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
        yield Place(
            f"s3://{bucket}/studies",
            lambda path, name: [*tool, "-T", str(path), f"{there}/{name}"],
            lambda name, path: [*tool, "-o", str(path), f"{there}/{name}"],
        )


PLACES = {
    "folder": folder_place,
    "s3": s3_place,
    "azure": azure_place,
    "sftp": sftp_place,
    "smb": smb_place,
    "webdav": webdav_place,
}


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def fill(store: Store, place: Place, n_keys: int) -> None:
    """Make many small objects beneath ``many/``, behind the store's back where that is possible."""
    if place.served is None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.create(f"many/{number:06d}", b"1"), range(n_keys)))
        return
    (place.served / "many").mkdir(parents=True)
    for number in range(n_keys):
        (place.served / "many" / f"{number:06d}").write_bytes(b"1")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, PLACES[name](Path(folder)) as place:
        work = Path(folder)
        source, target = work / "source", work / "target"
        tool = place.put(source, "own")[0]
        if shutil.which(tool) is None:
            sys.exit(f"{tool}, the tool that {name} is measured beside, is not installed")
        with source.open("wb") as file:
            for _ in range(options.mb):
                file.write(os.urandom(1_000_000))
        store = open_store(place.url, must_exist=False)
        store.create("a/first", b"1")
        create_s = seconds(
            lambda: [
                store.create(f"a/{number:06d}", b"1" * 500) for number in range(options.creates)
            ]
        )
        fill(store, place, options.keys)
        list_s = seconds(lambda: list(store.list("many/")))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        up, down, tool_up, tool_down = [], [], [], []
        for number in range(REPEATS):
            key = f"large-{number}"
            up.append(seconds(lambda key=key: store.upload(key, source)))
            command = place.put(source, "own")
            tool_up.append(seconds(lambda command=command: subprocess.run(command, check=True)))
            down.append(
                seconds(lambda key=key: store.download(key, target, max_bytes=options.mb * 10**6))
            )
            command = place.get("own", work / "own")
            tool_down.append(seconds(lambda command=command: subprocess.run(command, check=True)))
            if target.stat().st_size != source.stat().st_size:
                raise RuntimeError(f"{name} brought {target.stat().st_size} bytes")
            store.delete(key)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    speeds = {
        direction: (options.mb / statistics.median(own), options.mb / statistics.median(tool))
        for direction, own, tool in (("up", up, tool_up), ("down", down, tool_down))
    }
    return {
        "store": name,
        "creates_per_s": options.creates / create_s,
        "list_s": list_s,
        **{f"{direction}_mb_s": own for direction, (own, _) in speeds.items()},
        **{f"{direction}_of_tool": own / tool for direction, (own, tool) in speeds.items()},
        "memory_mb": memory / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mb", type=int, default=500, help="size of the large file")
    parser.add_argument("--creates", type=int, default=1000, help="small objects to create")
    parser.add_argument("--keys", type=int, default=10_000, help="objects to list")
    parser.add_argument("--only", nargs="+", default=list(PLACES), choices=list(PLACES))
    parser.add_argument("--json", action="store_true", help="one store, for a machine")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.only[0], options)))
        return
    print("| store | creates each s | listing | up | of the tool | down | of the tool | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.only:
        sizes = (f"--mb={options.mb}", f"--creates={options.creates}", f"--keys={options.keys}")
        command = [sys.executable, __file__, "--json", *sizes, "--only", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        one = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {name} | {one['creates_per_s']:.0f} | {one['list_s']:.1f} s "
            f"| {one['up_mb_s']:.0f} MB/s | {one['up_of_tool']:.2f} "
            f"| {one['down_mb_s']:.0f} MB/s | {one['down_of_tool']:.2f} "
            f"| {one['memory_mb']:.0f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
