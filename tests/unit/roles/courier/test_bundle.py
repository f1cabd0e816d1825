"""Bundles and ``sync``: a site without a network takes part, and nobody changes anything."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from fedfs.errors import (
    BundleError,
    SealedError,
    StudyError,
    UserError,
)
from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.roles.courier.bundle.pack import BundleWriter
from fedfs.roles.courier.bundle.parts import Parts, find_parts, parse_size
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import import_bundle
from fedfs.roles.courier.outgoing import export_bundle
from fedfs.roles.courier.sync import Sync
from fedfs.roles.site.join import join_study
from fedfs.store.memory import MemoryStore
from fedfs.trust.sealing import Identity
from support import invariants
from support.courier import Courier, index_of, quiet
from support.federation import Federation
from support.forwarding_store import ForwardingStore

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
    with pytest.raises(SealedError, match="cannot be decrypted on this host"):
        import_bundle(to_site, MemoryStore(), home=tmp_path / "stranger", on_progress=quiet)
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
    before = dict(courier.outpost.objects), dict(courier.federation.place.objects)
    paths = sorted(courier.stick.iterdir(), reverse=True)
    assert len(paths) > 6
    for path in paths:
        done = courier.load(path, BundleReader(path).header.direction)
        assert done.n_new == 0
        assert done.n_there > 0
    assert (dict(courier.outpost.objects), dict(courier.federation.place.objects)) == before


def test_a_bundle_holds_nothing_that_the_other_side_is_known_to_have(tmp_path):
    courier = Courier(tmp_path, rounds=4)
    courier.join()
    while courier.others() < 2:
        courier.trip()
    on_store = courier.federation.place.track.on_store
    path, _made = courier.export("for")
    names = [item.key for item in index_of(courier, path).items]
    assert [key for key in names if "model-" in key] == [
        on_store(courier.federation.observe().state.models[2].payload.key)
    ]
    assert layout.charter(1) not in names
    assert on_store(layout.model(1)) not in names
    courier.load(path, "for")
    assert courier.export("for")[1] is not None  # nobody knows yet that it has arrived
    courier.federation.run_process("north")
    path, _ = courier.export("from")
    names = [item.key for item in index_of(courier, path).items]
    assert on_store(layout.update("north", 2)) in names
    assert on_store(layout.update("north", 1)) not in names
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
        store,
        tmp_path / "bundle",
        "north",
        "for",
        home=tmp_path / "other-host",
        clock=federation.clock,
        on_progress=quiet,
    )
    names = {item.key for item in index_of(courier, tmp_path / "bundle").items} if made else set()
    assert layout.plan() not in names
    assert federation.place.track.on_store(layout.model(0)) not in names


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
    with pytest.raises(BundleError, match="lacks tracks/3d_fullres-0/aggregator/models/") as caught:
        courier.load(path, "for")
    assert "--for north --everything" in caught.value.hint


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


class Counting(ForwardingStore):
    """Counts messages that are read."""

    n_read = 0

    def get(self, key, *, max_bytes):
        self.n_read += 1
        return self.inner.get(key, max_bytes=max_bytes)


def test_sync_serves_a_site_behind_a_dmz(tmp_path):
    courier = Courier(tmp_path, rounds=12)
    federation, outpost = courier.federation, courier.outpost
    federation.join("east", "south")
    hub = Counting(federation.store)
    sync = Sync(hub, outpost, ["north"], on_progress=quiet)
    sync.copy()
    publisher = federation.publisher("site-north", "north", outpost)
    observer = open_study(outpost, site="north")
    join_study(observer, publisher, "north", federation.learners["north"], difference=[])
    sync.copy()
    federation.approve()
    federation.processes["north"] = federation.make_site("north", outpost)
    sync.copy()
    n_read, finished = [], False
    while not finished:
        for name in (*federation.targets, "aggregator"):
            federation.run_process(name)
        hub.n_read = 0
        finished = sync.step().finished
        n_read.append(hub.n_read)
    assert max(n_read[-4:]) <= max(n_read[3:7]) + 2  # a look does not read the study again
    state = federation.observe().state
    assert state.finished is not None
    assert ("north", 12, "full") in state.evaluations
    keys = set(outpost.objects)
    assert not [key for key in keys if "sites/east" in key or "sites/south" in key]
    assert sync.copy() == (0, 0)
    assert Sync(hub, outpost, ["north"], on_progress=quiet).copy() == (0, 0)


def test_sync_of_a_store_without_a_study_says_so(tmp_path):
    with pytest.raises(StudyError, match="holds no federation"):
        Sync(MemoryStore(), MemoryStore(), ["north"], on_progress=quiet).copy()
