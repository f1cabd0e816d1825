"""Bundles and ``sync``: a site without a network takes part, and nobody changes anything."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import invariants
from federation import Federation, forge
from fedfs.bundlefile import BundleReader, BundleWriter, Header, Parts, find_parts, parse_size
from fedfs.courier import export_bundle, import_bundle, sync
from fedfs.errors import (
    BundleError,
    ObjectExistsError,
    RejectedError,
    SealedError,
    StudyError,
    TensorError,
    UserError,
)
from fedfs.observe import open_study
from fedfs.protocol import layout
from fedfs.store.memory import MemoryStore
from fedfs.study import join_study
from fedfs.trust import sealing
from fedfs.trust.sealing import Identity


def quiet(_progress):
    return None


class Courier:
    """A federation of which one site has a store of its own, and a stick."""

    def __init__(self, folder: Path, site: str = "north", **options) -> None:
        self.federation = Federation(folder / "hosts", **options)
        self.site, self.stick, self.n_trips = site, folder / "stick", 0
        self.stick.mkdir()
        self.outpost = MemoryStore(name="outpost", clock=self.federation.clock)

    def home(self, direction: str) -> Path:
        return self.federation.home("coordinator" if direction == "for" else self.site)

    def export(self, direction: str, name: str = "", **options):
        self.n_trips += 1
        source = self.federation.store if direction == "for" else self.outpost
        path = self.stick / (name or f"{self.n_trips:03d}-{direction}.fedfs")
        made = export_bundle(
            source, path, self.site, direction, home=self.home(direction),
            clock=self.federation.clock, report=quiet, **options,
        )  # fmt: skip
        return path, made

    def load(self, path: Path, direction: str, **options):
        target = self.outpost if direction == "for" else self.federation.store
        home = self.home("from" if direction == "for" else "for")
        return import_bundle(path, target, home=home, report=quiet, **options)

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
            open_study(self.outpost, site=self.site), publisher, self.site,
            federation.learners[self.site], difference=[],
            encryption_key=federation.keyring(self.site).identity(f"site-{self.site}").recipient,
        )  # fmt: skip
        self.carry("from")
        federation.approve()
        federation.processes[self.site] = federation.make_site(self.site, self.outpost)

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


ENCODED = {"encoding": "int8", "model_encoding": "topk", "keyframe_every": 2, "rounds": 4}


@pytest.mark.parametrize("options", [{}, ENCODED], ids=["plain", "deltas"])
def test_a_site_that_has_a_stick_only_gives_the_same_models(tmp_path, options):
    courier = Courier(tmp_path, **options)
    courier.run()
    state = courier.federation.observe().state
    invariants.check(state)
    assert state.finished is not None
    assert not state.rejected
    online = Federation(tmp_path / "online", **options).start()
    online.run()
    for version in state.models:
        for name, values in online.weights(version).items():
            np.testing.assert_array_equal(courier.federation.weights(version)[name], values)


def test_bundles_are_encrypted_for_whoever_has_to_read_them(tmp_path):
    courier = Courier(tmp_path)
    courier.join()
    courier.trip()
    charter = courier.federation.observe().state.charter
    to_site, from_site = sorted(courier.stick.glob("*"))[-2:]
    first = min(courier.stick.glob("*-for.fedfs"))
    assert not BundleReader(first).header.sealed  # the charter, before anybody knows the site's key
    for path in (to_site, from_site):
        data = path.read_bytes()
        assert BundleReader(path).header.sealed
        assert b"safetensors" not in data
        assert b"federation" not in data.split(b"\n", 2)[2]
        with BundleReader(path) as reader, pytest.raises(BundleError):
            reader.index()  # not without a key
    assert charter.entry("north").encryption_key
    with pytest.raises(SealedError, match="cannot be decrypted here"):
        import_bundle(to_site, MemoryStore(), home=tmp_path / "stranger", report=quiet)
    with pytest.raises(SealedError):  # not even the sender reads what is for the site
        courier.load(to_site, "from")


def test_a_further_recipient_can_import(tmp_path):
    courier, dmz = Courier(tmp_path), Identity.generate()
    courier.join()
    courier.federation.run_process("aggregator")
    path, made = courier.export("for", recipients=[dmz.recipient])
    assert made.sealed_for == (dmz.recipient,)
    with pytest.raises(SealedError):
        courier.load(path, "for")
    assert courier.load(path, "for", identities=[dmz]).n_new


def test_importing_again_or_an_old_one_is_harmless_and_says_so(tmp_path):
    courier = Courier(tmp_path)
    courier.run()
    before = dict(courier.outpost.objects), dict(courier.federation.store.objects)
    paths = sorted(courier.stick.iterdir(), reverse=True)
    assert len(paths) > 6
    for path in paths:
        done = courier.load(path, BundleReader(path).header.direction)
        assert done.n_new == 0
        assert done.n_there > 0
    assert (dict(courier.outpost.objects), dict(courier.federation.store.objects)) == before


def test_a_bundle_holds_nothing_that_the_other_side_is_known_to_have(tmp_path):
    courier = Courier(tmp_path, rounds=4)
    courier.join()
    while courier.others() < 2:
        courier.trip()
    path, _made = courier.export("for")
    names = [item.key for item in _index(courier, path).items]
    assert [key for key in names if "model-" in key] == [
        courier.federation.observe().state.models[2].payload.key
    ]
    assert layout.charter(1) not in names
    assert layout.model(1) not in names
    courier.load(path, "for")
    assert courier.export("for")[1] is not None  # nobody knows yet that it has arrived
    courier.federation.run_process("north")
    path, _ = courier.export("from")
    names = [item.key for item in _index(courier, path).items]
    assert layout.update("north", 2) in names
    assert layout.update("north", 1) not in names
    courier.load(path, "from")
    assert courier.export("for")[1] is None


def test_another_host_knows_what_follows_from_the_store(tmp_path):
    """Without the memory of earlier bundles: what a site has answered it must have had."""
    courier = Courier(tmp_path)
    courier.join()
    courier.trip()
    courier.trip()
    store, federation = courier.federation.store, courier.federation
    made = export_bundle(
        store, tmp_path / "bundle", "north", "for", home=tmp_path / "other-host",
        clock=federation.clock, report=quiet,
    )  # fmt: skip
    names = {item.key for item in _index(courier, tmp_path / "bundle").items} if made else set()
    assert layout.plan() not in names
    assert layout.model(0) not in names


def test_a_site_that_lost_its_folder_gets_everything_again(tmp_path):
    courier = Courier(tmp_path)
    courier.join()
    courier.trip()
    courier.trip()
    courier.others()
    courier.outpost.objects.clear()
    path, _ = courier.export("for")
    with pytest.raises(BundleError, match="first charter") as caught:
        courier.load(path, "for")
    assert "--everything" in caught.value.hint
    assert not courier.outpost.objects
    path, _ = courier.export("for", everything=True)
    courier.load(path, "for")
    courier.federation.kill("north")
    courier.federation.processes["north"] = courier.federation.make_site("north", courier.outpost)
    assert ("north", 0) in open_study(courier.outpost, site="north").state.updates
    while any(courier.trip()):
        pass
    for name in (*courier.federation.targets, "aggregator"):
        courier.federation.run_process(name)
    assert courier.federation.observe().state.finished is not None


def test_what_the_outpost_lost_is_named_by_the_next_import(tmp_path):
    courier = Courier(tmp_path, **ENCODED)
    courier.join()
    while courier.others() < 1:  # which is a delta; version 0 and 2 are in full
        courier.trip()
    for key in [k for k in courier.outpost.objects if "/models/" in k and "safetensors" in k]:
        del courier.outpost.objects[key]
    path, _ = courier.export("for")
    with pytest.raises(BundleError, match="lacks aggregator/models/") as caught:
        courier.load(path, "for")
    assert "--for north --everything" in caught.value.hint


# --- attacks on bundles --------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path):
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


def test_every_changed_byte_is_noticed_and_nothing_published(ready):
    path, _ = ready.export("for")
    good, before = path.read_bytes(), dict(ready.outpost.objects)
    rng = np.random.default_rng(1)
    places = {0, 20, len(good) - 1, len(good) - 60, *rng.integers(0, len(good), 120).tolist()}
    header_end = good.index(b"\n", good.index(b"\n") + 1)
    refused = 0
    for place in sorted(places):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x21]) + good[place + 1 :])
        try:
            ready.load(path, "for")
        except RejectedError:
            refused += 1
        else:
            assert place <= header_end  # the header is for people: its time, say
        if place > header_end:
            assert ready.outpost.objects == before, place
    assert refused > 100


@pytest.mark.parametrize("plain", [False, True], ids=["sealed", "plain"])
def test_a_bundle_that_is_cut_off_anywhere_is_refused(ready, plain):
    path, _ = ready.export("for", **({"recipients": ()} if plain else {}))
    good, before = path.read_bytes(), dict(ready.outpost.objects)
    for length in {0, 5, 30, 200, len(good) // 2, len(good) - 65, len(good) - 64, len(good) - 1}:
        path.write_bytes(good[:length])
        with pytest.raises(BundleError):
            ready.load(path, "for")
    assert ready.outpost.objects == before


def write_bundle(path: Path, header: dict, entries, has=()):
    """Write a bundle by the format's rules, of whatever content."""

    said = {"study": "", "site": "north", "direction": "for", "created_at": "", "sealed": False}
    head = Header(**{**said, **header})
    writer = BundleWriter(path, head, {})
    for key, data in entries:
        writer.add(key, len(data), hashlib.sha256(data).hexdigest(), lambda f, d=data: f.write(d))
    writer.finish(has, None)
    return path


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("../../etc/passwd", "no object"),
        ("/etc/passwd", "no object"),
        ("sites/north/../../x.json", "no object"),
        (".hidden", "no object"),
        ("federation/CHARTER-0001.json", "no object"),
        ("federation/\u202etxt.json", "no object"),
        ("something/else.json", "no object of a study"),
        ("sites/east/fingerprint-0001.json", "does not belong"),
        ("x" * 300, "no object"),
    ],
)
def test_a_key_that_leads_elsewhere_is_refused(ready, tmp_path, key, reason):
    study = ready.federation.charter.study
    path = write_bundle(tmp_path / "bad", {"study": study}, [(key, b"{}")])
    with pytest.raises(RejectedError, match=reason):
        ready.load(path, "for")
    assert not list(tmp_path.rglob("passwd"))


def test_a_site_cannot_bring_what_the_aggregator_signs(ready, tmp_path):
    study, store = ready.federation.charter.study, ready.federation.store
    record = layout.round_record(0)
    data = store.objects[record].data
    entries = [(record, data)]
    header = {"study": study, "direction": "from"}
    path = write_bundle(tmp_path / "bad", header, entries)
    with pytest.raises(BundleError, match="does not belong into a bundle from north"):
        ready.load(path, "from")


def test_a_forged_message_stops_the_whole_bundle(ready, tmp_path):
    study, store = ready.federation.charter.study, ready.federation.store
    good = [
        (key, store.objects[key].data)
        for key in (layout.plan(), layout.round_record(0), layout.model(0))
    ]
    forged = (layout.charter(3), good[0][1])
    path = write_bundle(tmp_path / "bad", {"study": study}, [*good, forged])
    before = dict(ready.outpost.objects)
    with pytest.raises(BundleError, match="charter-0003.json cannot be accepted"):
        ready.load(path, "for")
    assert ready.outpost.objects == before


def test_a_payload_that_no_message_names_is_refused(ready, tmp_path):

    data = b"anything"
    key = layout.model_payload(0, hashlib.sha256(data).hexdigest())
    path = write_bundle(tmp_path / "bad", {"study": ready.federation.charter.study}, [(key, data)])
    with pytest.raises(BundleError, match="which no accepted message names"):
        ready.load(path, "for")


def test_a_payload_under_another_hash_is_refused(ready, tmp_path):
    key = layout.model_payload(0, "0" * 64)
    path = write_bundle(tmp_path / "bad", {"study": ready.federation.charter.study}, [(key, b"x")])
    with pytest.raises(BundleError, match="other bytes than its name says"):
        ready.load(path, "for")


@pytest.mark.parametrize(
    "header",
    [
        {"study": "../../../tmp/x-" + "0" * 32},
        {"study": "x"},
        {"study": "other-" + "0" * 32},
        {"site": "../north"},
        {"direction": "sideways"},
        {"sealed": True},
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(ready, tmp_path, header):
    said = {"study": ready.federation.charter.study, **header}
    key = layout.plan()
    data = ready.federation.store.objects[key].data
    path = write_bundle(tmp_path / "bad", said, [(key, data)])
    with pytest.raises((RejectedError, UserError)):
        ready.load(path, "for")


def test_another_studys_bundle_is_refused(ready, tmp_path):
    other = Courier(tmp_path / "other")
    path, _ = other.export("for")
    with pytest.raises(BundleError, match="this store holds another one"):
        ready.load(path, "for")


def test_an_index_that_unpacks_to_gigabytes_is_refused_in_little_memory(tmp_path):

    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(2048)) + packer.flush()
    says = b'{"created_at":"","direction":"for","sealed":false,"site":"n","study":"s"}'
    head = b"fedfs-bundle 1\n" + says + b"\n"
    trailer = struct.pack(
        ">8sQQ8x32s", b"fedfs-ix", len(head), len(bomb), hashlib.sha256(bomb).digest()
    )
    (tmp_path / "bomb").write_bytes(head + bomb + trailer)
    with BundleReader(tmp_path / "bomb") as reader, pytest.raises(BundleError, match="larger than"):
        reader.index()


def _resealed(path: Path, items) -> None:
    """Give a plain bundle another index."""

    data = path.read_bytes()
    offset = struct.unpack(">Q", data[-56:-48])[0]
    index = zlib.compress(json.dumps({"items": items, "has": []}).encode())
    trailer = struct.pack(
        ">8sQQ8x32s", b"fedfs-ix", offset, len(index), hashlib.sha256(index).digest()
    )
    path.write_bytes(data[:offset] + index + trailer)


def test_an_index_that_lies_about_places_and_sizes_is_refused(ready, tmp_path):
    study = ready.federation.charter.study
    key = layout.plan()
    data = ready.federation.store.objects[key].data
    path = write_bundle(tmp_path / "bad", {"study": study}, [(key, data)])
    with BundleReader(path) as reader:
        (item,) = reader.index().items
    good = vars(item) | {}
    lies = [
        {"offset": 0}, {"offset": 10**15}, {"stored": -1}, {"stored": 10**15}, {"size": -5},
        {"size": 10**12}, {"stored": good["stored"] - 1}, {"sha256": "0" * 64},
        {"size": good["size"] - 1},
    ]  # fmt: skip
    for lie in lies:
        _resealed(path, [{**good, **lie}])
        with pytest.raises(BundleError):
            ready.load(path, "for")
    _resealed(path, [good, good])
    with pytest.raises(BundleError, match="twice"):
        ready.load(path, "for")
    _resealed(path, [good] * 200_000)
    with pytest.raises(BundleError):
        ready.load(path, "for")


def test_something_else_under_a_key_is_an_error_and_stays(ready):
    key = layout.plan()
    path, _ = ready.export("for")
    ready.outpost.objects[key] = ready.outpost.objects[layout.charter(1)]
    with pytest.raises((ObjectExistsError, BundleError)):
        ready.load(path, "for")


def test_a_damaged_payload_is_not_exported(ready):
    key = ready.federation.observe().state.models[0].payload.key
    good = ready.federation.store.objects[key]
    forge(ready.federation.store, key, good.data[:-1] + b"!")
    with pytest.raises(TensorError, match="is damaged"):
        ready.export("for", "bundle")
    ready.federation.store.objects[key] = good
    path, made = ready.export("for", "bundle")
    assert made.n_objects
    assert ready.load(path, "for").n_new


# --- parts, and exports that break off -----------------------------------------------------------


def test_a_bundle_in_parts_is_one_bundle(ready):
    path, made = ready.export("for", "split", part_bytes=2000)
    assert len(made.paths) > 3
    assert [p.name for p in made.paths[:2]] == ["split.001", "split.002"]
    assert {p.stat().st_size for p in made.paths[:-1]} == {2000}
    assert find_parts(made.paths[2]) == list(made.paths)
    moved = made.paths[1].rename(path.with_name("elsewhere"))
    with pytest.raises(BundleError, match=r"part split\.002 is not here"):
        ready.load(made.paths[0], "for")
    moved.rename(made.paths[1])
    last = made.paths[-1].rename(path.with_name("elsewhere"))
    with pytest.raises(BundleError, match="last part is missing|cut off"):
        ready.load(made.paths[0], "for")
    last.rename(made.paths[-1])
    done = ready.load(path, "for")
    assert done.n_new
    assert ready.federation.run_process("north").text.startswith("waiting for version 1")


@pytest.mark.parametrize("part_bytes", [0, 1500])
def test_an_export_that_broke_off_goes_on(ready, monkeypatch, part_bytes):
    class UnpluggedError(Exception):
        pass

    original, calls = BundleWriter.add, []

    def add(self, *arguments):
        calls.append(arguments[0])
        if len(calls) == 4:
            raise UnpluggedError
        original(self, *arguments)

    monkeypatch.setattr(BundleWriter, "add", add)
    with pytest.raises(UnpluggedError):
        ready.export("for", "bundle", part_bytes=part_bytes)
    assert not list(ready.stick.glob("bundle")) + list(ready.stick.glob("bundle.[0-9]*[0-9]"))
    path, made = ready.export("for", "bundle", part_bytes=part_bytes)
    assert made.n_kept == 3
    assert len(calls) == len(set(calls[:3])) + 1 + (made.n_objects - 3)
    assert not list(ready.stick.glob("*partial*"))
    assert ready.load(path, "for").n_new >= made.n_objects - 1  # an old status is left out


def test_a_name_that_is_taken_is_not_overwritten(ready):
    path, _ = ready.export("for", "bundle")
    with pytest.raises(UserError, match="exists already"):
        ready.export("for", "bundle")
    shutil.copy(path, path.with_name("other.001"))
    with pytest.raises(UserError, match="exists already"):
        ready.export("for", "other", part_bytes=2000)


def test_sizes_of_parts():
    assert parse_size("4GB") == 4_000_000_000
    assert parse_size("650 MB") == 650_000_000
    assert parse_size("1.5G") == 1_500_000_000
    for text in ("", "GB", "4 apples", "-1GB", "10"):
        with pytest.raises(UserError):
            parse_size(text)


def test_parts_read_as_one_file(tmp_path):
    data = bytes(range(256)) * 10
    paths = [tmp_path / f"p{i}" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(data[i * 1000 : (i + 1) * 1000])
    with Parts(paths, 1000) as file:
        assert file.read(2560) + file.read() == data or file.seek(0) == 0
        for start, length in ((0, 2560), (990, 20), (999, 1), (1000, 1560), (2559, 10)):
            file.seek(start)
            out = b""
            while len(out) < length and (piece := file.read(length - len(out))):
                out += piece
            assert out == data[start : start + length]


# --- sync ----------------------------------------------------------------------------------------


def test_sync_serves_a_site_behind_a_dmz(tmp_path):
    courier = Courier(tmp_path)
    federation, outpost = courier.federation, courier.outpost
    federation.join("east", "south")
    sync(federation.store, outpost, ["north"], report=quiet)
    publisher = federation.publisher("site-north", "north", outpost)
    observer = open_study(outpost, site="north")
    join_study(observer, publisher, "north", federation.learners["north"], difference=[])
    sync(federation.store, outpost, ["north"], report=quiet)
    federation.approve()
    federation.processes["north"] = federation.make_site("north", outpost)
    sync(federation.store, outpost, ["north"], report=quiet)
    for _ in range(30):
        for name in (*federation.targets, "aggregator"):
            federation.run_process(name)
        sync(federation.store, outpost, ["north"], report=quiet)
    state = federation.observe().state
    assert state.finished is not None
    assert ("north", 3, "full") in state.evaluations
    keys = set(outpost.objects)
    assert not [key for key in keys if key.startswith(("sites/east", "sites/south"))]
    assert sync(federation.store, outpost, ["north"], report=quiet) == (0, 0)


def test_sync_of_a_store_without_a_study_says_so(tmp_path):
    with pytest.raises(StudyError, match="holds no federation"):
        sync(MemoryStore(), MemoryStore(), ["north"], report=quiet)


def _index(courier: Courier, path: Path):
    with BundleReader(path) as reader:
        direction = reader.header.direction
        roles = {"for": [f"site-{courier.site}"], "from": ["aggregator", "coordinator"]}[direction]
        host = courier.site if direction == "for" else "coordinator"
        keys = [one for role in roles for one in courier.federation.keyring(host).identities(role)]
        return reader.index(lambda data: sealing.unseal(data, keys))
