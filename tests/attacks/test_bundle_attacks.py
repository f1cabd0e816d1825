"""Bundles that nobody vouches for: each fault is refused, and nothing of it published."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fedfs.errors import BundleError, ObjectExistsError, RejectedError, TensorError, UserError
from fedfs.protocol import layout
from fedfs.roles.courier.bundle.unpack import BundleReader
from support.courier import Courier, write_bundle
from support.federation import forge


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


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("../../etc/passwd", "not an object"),
        ("/etc/passwd", "not an object"),
        ("sites/north/../../x.json", "not an object"),
        (".hidden", "not an object"),
        ("federation/CHARTER-0001.json", "not an object"),
        ("federation/\u200etxt.json", "not an object"),
        ("something/else.json", "not an object of a study"),
        ("aggregator/rounds/00000.json", "not an object of a study"),
        ("tracks/2d-0/federation/charter-0001.json", "not an object of a study"),
        ("tracks/../aggregator/rounds/00000.json", "not an object"),
        ("sites/east/fingerprint-0001.json", "does not belong"),
        ("x" * 300, "not an object"),
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
    record = ready.federation.place.track.on_store(record)
    entries = [(record, store.objects[record].data)]
    header = {"study": study, "direction": "from"}
    path = write_bundle(tmp_path / "bad", header, entries)
    with pytest.raises(BundleError, match="does not belong into a bundle from north"):
        ready.load(path, "from")


def test_a_forged_message_stops_the_whole_bundle(ready, tmp_path):
    study, store = ready.federation.charter.study, ready.federation.store
    good = [
        (key, store.objects[key].data)
        for key in map(
            ready.federation.place.track.on_store,
            (layout.plan(), layout.round_record(0), layout.model(0)),
        )
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
    key = ready.federation.place.track.on_store(key)
    path = write_bundle(tmp_path / "bad", {"study": ready.federation.charter.study}, [(key, data)])
    with pytest.raises(BundleError, match="which no accepted message names"):
        ready.load(path, "for")


def test_a_payload_under_another_hash_is_refused(ready, tmp_path):
    key = ready.federation.place.track.on_store(layout.model_payload(0, "0" * 64))
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
    data = ready.federation.place.objects[key].data
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
    begin, more = (
        packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    bomb = begin + more * 2047 + packer.flush()
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
    data = ready.federation.place.objects[key].data
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
    _resealed(path, [good] * 20_000)
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
    good = ready.federation.place.objects[key]
    forge(ready.federation.place, key, good.data[:-1] + b"!")
    with pytest.raises(TensorError, match="is damaged"):
        ready.export("for", "bundle")
    ready.federation.place.objects[key] = good
    path, made = ready.export("for", "bundle")
    assert made.n_objects
    assert ready.load(path, "for").n_new
