"""Speed of each store beside tools of its protocol, on the servers of the tests.

Each store is measured in a process of its own: objects that are created one after the other, a
listing, a large file up and down, and the memory that the transfer took. The tools move the same
file: cp, sftp, rclone, and smbclient or curl, which are programs in C without the retries and
checks of the others. They take turns with the store; the first turn is not counted, and before each
transfer as much memory is touched as it may need, because a virtual machine that gets memory back
from its host is slow meanwhile. Servers and clients share the machine, and the line is loopback.

    python bench/stores.py                        # 500 MB: ten minutes on two cores
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
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from touched import touch_memory

from fedfs.store import open_store
from fedfs.store.base import Store
from support import azure_server, dav_server, s3_server, smb_server, ssh_server

REPEATS = 5
"""Transfers of the large file each way that count; of them, the median does."""

Command = Callable[[Path, str], list[str]]
"""Of a local file and a name in the store, what copies one to the other."""


@dataclass(frozen=True)
class Place:
    """A store and tools of its protocol.

    Attributes:
        url: of the store.
        tools: name -> commands that put a file there, and get it.
        served: folder behind the server, where there is one.
    """

    url: str
    tools: dict[str, tuple[Command, Command]]
    served: Path | None = None


def rclone(kind: str, folder: str, **settings: str) -> tuple[Command, Command]:
    """Return the commands of rclone, which takes a configuration from the environment."""
    for name, value in {"type": kind, **settings}.items():
        os.environ[f"RCLONE_CONFIG_THERE_{name.upper()}"] = value
    tool = ["env", "-u", "AWS_CA_BUNDLE", "rclone", "-q", "--config", "", "--ignore-times"]
    return (
        lambda path, name: [*tool, "copyto", str(path), f"there:{folder}/{name}"],
        lambda path, name: [*tool, "copyto", f"there:{folder}/{name}", str(path)],
    )


def obscured(password: str) -> str:
    """Return a password as rclone takes it."""
    command = ["rclone", "obscure", password]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextlib.contextmanager
def folder_place(work: Path) -> Iterator[Place]:
    served = work / "served"
    yield Place(
        str(served),
        {
            "cp": (
                lambda path, name: [
                    "sh",
                    "-c",
                    f"cp {path} {served}/{name} && sync {served}/{name}",
                ],
                lambda path, name: ["cp", f"{served}/{name}", str(path)],
            )
        },
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
            {
                "sftp": (
                    lambda path, name: ["sh", "-c", f"echo put {path} {served}/{name} | {tool}"],
                    lambda path, name: ["sh", "-c", f"echo get {served}/{name} {path} | {tool}"],
                )
            },
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
        tool = ["smbclient", share, "-p", str(server.port), "-U", login, "-m", "SMB3", "-d", "0"]
        tool += ["--client-protection=sign", "-c"]
        where = {"host": "127.0.0.1", "port": str(server.port), "user": str(url.username)}
        yield Place(
            url.geturl(),
            {
                "rclone": rclone(
                    "smb",
                    f"{smb_server.SHARE}/organ",
                    **where,
                    **{"pass": obscured(server.password)},
                ),
                "smbclient": (
                    lambda path, name: [*tool, f"put {path} organ/{name}"],
                    lambda path, name: [*tool, f"get organ/{name} {path}"],
                ),
            },
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
            {
                "rclone": rclone(
                    "webdav",
                    "organ",
                    url=there.removesuffix("/organ"),
                    user=dav_server.USER,
                    **{"pass": obscured(server.password)},
                ),
                "curl": (
                    lambda path, name: [*tool, "-T", str(path), f"{there}/{name}"],
                    lambda path, name: [*tool, "-o", str(path), f"{there}/{name}"],
                ),
            },
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
            permission=ContainerSasPermissions(read=True, write=True, create=True, list=True),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2),
        )  # fmt: skip
        tool = ["curl", "-sSf"]
        kind = ["-H", "x-ms-blob-type: BlockBlob"]
        yield Place(
            "az://organ/studies",
            {
                "rclone": rclone("azureblob", "organ", sas_url=f"{client.url}?{token}"),
                "curl": (
                    lambda path, name: [
                        *tool,
                        *kind,
                        "-T",
                        str(path),
                        f"{client.url}/{name}?{token}",
                    ],
                    lambda path, name: [*tool, "-o", str(path), f"{client.url}/{name}?{token}"],
                ),
            },
        )


@contextlib.contextmanager
def s3_place(work: Path) -> Iterator[Place]:
    del work
    with s3_server.running() as server:
        os.environ.update(server.environment())
        bucket = server.make_bucket()
        user, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        login, endpoint = f"{user}:{secret}", os.environ["AWS_ENDPOINT_URL"]
        there = f"{endpoint}/{bucket}"
        signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", login]
        tool = ["curl", "-sSf", *signed, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
        yield Place(
            f"s3://{bucket}/studies",
            {
                "rclone": rclone(
                    "s3",
                    bucket,
                    provider="Ceph",
                    endpoint=endpoint,
                    access_key_id=user,
                    secret_access_key=secret,
                ),
                "curl": (
                    lambda path, name: [*tool, "-T", str(path), f"{there}/{name}"],
                    lambda path, name: [*tool, "-o", str(path), f"{there}/{name}"],
                ),
            },
        )


PLACES = {
    "folder": folder_place,
    "s3": s3_place,
    "azure": azure_place,
    "sftp": sftp_place,
    "smb": smb_place,
    "webdav": webdav_place,
}


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


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
        for tool in place.tools:
            if shutil.which(tool) is None:
                sys.exit(f"{tool}, which {name} is measured beside, is not installed")
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
        size = options.mb * 10**6
        ways = {
            "own": (
                partial(store.upload, "large", source),
                partial(store.download, "large", target, max_bytes=size),
            )
        }
        for tool, commands in place.tools.items():
            put, get = (
                command(path, tool)
                for command, path in zip(commands, (source, target), strict=True)
            )
            ways[tool] = (partial(run, put), partial(run, get))
        times: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(1 + REPEATS):
            for who, acts in ways.items():
                for way, act in enumerate(acts):
                    touch_memory(work, 3 * options.mb)
                    times[who, way].append(seconds(act))
                if target.stat().st_size != size:
                    raise RuntimeError(f"{who} brought {target.stat().st_size} bytes")
                target.unlink()
            store.delete("large")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    speeds = {key: options.mb / statistics.median(taken[1:]) for key, taken in times.items()}
    return {
        "store": name,
        "creates_per_s": options.creates / create_s,
        "list_s": list_s,
        "mb_s": [speeds["own", way] for way in range(2)],
        "of_tool": {
            tool: [speeds["own", way] / speeds[tool, way] for way in range(2)]
            for tool in place.tools
        },
        "memory_mb": memory / 1000,
    }


def row(one: dict[str, Any]) -> str:
    cells = [one["store"], f"{one['creates_per_s']:.0f}", f"{one['list_s']:.1f} s"]
    for way, speed in enumerate(one["mb_s"]):
        shares = (f"{share[way]:.2f} of {tool}" for tool, share in one["of_tool"].items())
        cells += [f"{speed:.0f} MB/s", ", ".join(shares)]
    return f"| {' | '.join(cells)} | {one['memory_mb']:.0f} MB |"


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
    print("| store | creates each s | listing | up | | down | | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.only:
        sizes = (f"--mb={options.mb}", f"--creates={options.creates}", f"--keys={options.keys}")
        command = [sys.executable, __file__, "--json", *sizes, "--only", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(row(json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
