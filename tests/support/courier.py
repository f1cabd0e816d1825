"""A federation of which one site or the helper has a store of its own, and a stick goes between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedfs.exchange.read import open_study
from fedfs.learner import Progress
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.courier.bundle.format import Header, Index
from fedfs.roles.courier.bundle.pack import BundleWriter
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import Imported, import_bundle
from fedfs.roles.courier.outgoing import Exported, export_bundle
from fedfs.roles.helper.join import join_as_helper
from fedfs.roles.site.join import join_study
from fedfs.store.memory import MemoryStore
from fedfs.trust import sealing
from support.federation import HELPER, Federation


def quiet(_progress: Progress) -> None:
    """Report no progress."""


class Courier:
    """A federation of which one site has a store of its own, and a stick."""

    def __init__(self, folder: Path, site: str = "north", **options: Any) -> None:
        self.federation = Federation(folder / "hosts", **options)
        self.site, self.stick, self.n_trips = site, folder / "stick", 0
        self.stick.mkdir()
        self.outpost = MemoryStore(name="outpost", clock=self.federation.clock)

    @property
    def host(self) -> str:
        """Host, and process, of the party without a network."""
        return self.site

    def home(self, direction: str) -> Path:
        return self.federation.home("coordinator" if direction == "for" else self.host)

    def export(
        self, direction: str, name: str = "", **options: Any
    ) -> tuple[Path, Exported | None]:
        self.n_trips += 1
        source = self.federation.store if direction == "for" else self.outpost
        path = self.stick / (name or f"{self.n_trips:03d}-{direction}.fedfs")
        made = export_bundle(
            source, path, self.site, direction, home=self.home(direction),
            clock=self.federation.clock, on_progress=quiet, **options,
        )  # fmt: skip
        return path, made

    def load(self, path: Path, direction: str, **options: Any) -> Imported:
        target = self.outpost if direction == "for" else self.federation.store
        home = self.home("from" if direction == "for" else "for")
        return import_bundle(path, target, home=home, on_progress=quiet, **options)

    def carry(self, direction: str) -> int:
        """Go once; return how many objects were new there."""
        path, made = self.export(direction)
        return self.load(path, direction).n_new if made else 0

    def join(self) -> None:
        federation = self.federation
        federation.join(*(site for site in federation.targets if site != self.site))
        self.carry("for")
        publisher = federation.publisher(f"site-{self.site}", self.site, self.outpost)
        join_study(
            open_study(self.outpost, site=self.site),
            publisher,
            self.site,
            federation.learners[self.site],
            difference=[],
            encryption_key=federation.keyring(self.site).identity(f"site-{self.site}").recipient,
        )
        self.carry("from")
        federation.approve()
        federation.processes[self.site] = federation.new_process(self.site, self.outpost)

    def others(self) -> int:
        """Let all others do what they can; return the newest version."""
        for name in self.federation.targets:
            if name != self.site:
                self.federation.run_process(name)
        self.federation.run_process("aggregator")
        return self.federation.observe().state.newest

    def trip(self) -> tuple[int, int]:
        """Everybody works; the stick goes to the site and back."""
        self.others()
        to = self.carry("for")
        self.federation.run_process(self.host)
        return to, self.carry("from")

    def run(self) -> None:
        self.join()
        while any(self.trip()):
            pass
        for name in (*self.federation.targets, "aggregator"):
            self.federation.run_process(name)


class HelperCourier(Courier):
    """A federation whose helper has a store of its own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, HELPER_SITE, **options)

    @property
    def host(self) -> str:
        return HELPER

    def join(self) -> None:
        federation = self.federation
        federation.join()
        federation.approve()
        self.carry("for")
        join_as_helper(self.outpost, federation.home(HELPER), clock=federation.clock)
        self.carry("from")
        federation.approve_helper()
        federation.processes[HELPER] = federation.new_process(HELPER, self.outpost)


def index_of(courier: Courier, path: Path) -> Index:
    with BundleReader(path) as reader:
        direction = reader.header.direction
        own = "helper" if courier.host == HELPER else f"site-{courier.site}"
        roles = {"for": [own], "from": ["aggregator", "coordinator"]}[direction]
        host = courier.host if direction == "for" else "coordinator"
        keys = [one for role in roles for one in courier.federation.keyring(host).identities(role)]
        return reader.index(lambda data: sealing.unseal(data, keys))


def write_bundle(
    path: Path,
    header: Mapping[str, Any],
    entries: Iterable[tuple[str, bytes]],
    has: Sequence[str] = (),
) -> Path:
    """Write a bundle by the format's rules, of whatever content."""
    said = {"study": "", "site": "north", "direction": "for", "created_at": "", "sealed": False}
    writer = BundleWriter(path, Header(**{**said, **header}), {})
    for key, data in entries:
        sha256 = hashlib.sha256(data).hexdigest()
        writer.add(key, len(data), sha256, partial(_put, data))
    writer.finish(has, None)
    return path


def _put(data: bytes, file: BinaryIO) -> None:
    file.write(data)
