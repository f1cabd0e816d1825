"""A federation of which one site has a store of its own, and a stick that goes to and fro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedfs.exchange.read import open_study
from fedfs.learner import Progress
from fedfs.roles.courier.bundle.format import Index
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import Imported, import_bundle
from fedfs.roles.courier.outgoing import Exported, export_bundle
from fedfs.roles.site.join import join_study
from fedfs.store.memory import MemoryStore
from fedfs.trust import sealing
from support.federation import Federation


def quiet(_progress: Progress) -> None:
    """Report no progress."""


class Courier:
    """A federation of which one site has a store of its own, and a stick."""

    def __init__(self, folder: Path, site: str = "north", **options: Any) -> None:
        self.federation = Federation(folder / "hosts", **options)
        self.site, self.stick, self.n_trips = site, folder / "stick", 0
        self.stick.mkdir()
        self.outpost = MemoryStore(name="outpost", clock=self.federation.clock)

    def home(self, direction: str) -> Path:
        return self.federation.home("coordinator" if direction == "for" else self.site)

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
        self.federation.run_process(self.site)
        return to, self.carry("from")

    def run(self) -> None:
        self.join()
        while any(self.trip()):
            pass
        for name in (*self.federation.targets, "aggregator"):
            self.federation.run_process(name)


def index_of(courier: Courier, path: Path) -> Index:
    with BundleReader(path) as reader:
        direction = reader.header.direction
        roles = {"for": [f"site-{courier.site}"], "from": ["aggregator", "coordinator"]}[direction]
        host = courier.site if direction == "for" else "coordinator"
        keys = [one for role in roles for one in courier.federation.keyring(host).identities(role)]
        return reader.index(lambda data: sealing.unseal(data, keys))
