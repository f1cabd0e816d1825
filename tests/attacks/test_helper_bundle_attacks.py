"""Bundles for and from the helper that would show it too much, or that nobody vouches for."""

from __future__ import annotations

import pytest

from fedfs.errors import BundleError
from fedfs.protocol import layout
from fedfs.protocol.track_place import split_track
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import import_bundle
from fedfs.store.memory import MemoryStore
from support.courier import HelperCourier, quiet, write_bundle
from support.federation import HELPER
from support.forgery import resign

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
SECURE = {
    "secure_sums": True, "secure_scores": True, "encryption": "age", "rounds": 1,
    "targets": TARGETS,
}  # fmt: skip
UPDATE, SCORES = layout.update("north", 0), layout.evaluation("north", 0, "pseudo")
REQUEST, ANSWER = layout.sum_request(1), layout.mask_sum(1)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The helper has answered, and its answer has not been carried; changed by no test."""
    courier = HelperCourier(tmp_path_factory.mktemp("asked"), **SECURE)
    courier.join()
    while 1 not in courier.federation.observe().state.sum_requests:
        courier.others()
    courier.carry("for")
    courier.federation.run_process(HELPER)
    return courier


def changed(courier, folder, direction, changes):
    """Write a plain bundle of what an honest one holds, with objects changed, added or left out."""
    path, _ = courier.export(direction, f"{folder.name}-honest", recipients=(), everything=True)
    source = courier.federation.store if direction == "for" else courier.outpost
    with BundleReader(path) as reader:
        honest = [item.key for item in reader.index().items]
    on_store = courier.federation.place.track.on_store
    entries = {key: source.objects[key].data for key in honest}
    entries |= {on_store(key): data for key, data in changes.items()}
    header = {"study": courier.federation.charter.study, "site": HELPER_SITE}
    left = [(key, data) for key, data in entries.items() if data is not None]
    return write_bundle(folder / "bundle", {**header, "direction": direction}, left)


def payload_of(courier, kind):
    """Return a payload on the study's store, by the track's key."""
    objects = courier.federation.place.objects
    key = next(key for key in objects if layout.parse(key).kind == kind)
    return {key: objects[key].data}


FOR = {
    "a masked update": (lambda c: payload_of(c, "update-payload"), "does not belong into a bundle"),
    "a model": (lambda c: payload_of(c, "model-payload"), "does not belong into a bundle"),
    "a site's fingerprint": (
        lambda _: {layout.fingerprint("north"): b"{}"}, "bundle for the helper",
    ),
    "an update of another site": (
        lambda c: {UPDATE: resign(c.federation, UPDATE, "east", "site-east")},
        "updates/00000/manifest.json cannot be accepted",
    ),
    "a seed for somebody else": (
        lambda c: {
            UPDATE: resign(
                c.federation, UPDATE, "north", "site-north",
                seed_for=c.federation.charter.aggregator_encryption_key,
            )
        },
        "somebody who is not the helper",
    ),
    "scores of another site": (
        lambda c: {SCORES: resign(c.federation, SCORES, "east", "site-east")}, "cannot be accepted",
    ),
    "a request of a site": (
        lambda c: {REQUEST: resign(c.federation, REQUEST, "east", "site-east")},
        "sums/00001.json cannot be accepted",
    ),
    "no update that is named": (lambda _: {UPDATE: None}, "lacks tracks/.*/updates/00000/manifest"),
    "no scores that are named": (lambda _: {SCORES: None}, "lacks tracks/.*/00000-pseudo.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOR)
def test_a_bundle_for_the_helper_is_refused_and_nothing_published(asked, tmp_path, name):
    make, says = FOR[name]
    path, store = changed(asked, tmp_path, "for", make(asked)), MemoryStore()
    with pytest.raises(BundleError, match=says):
        import_bundle(path, store, home=tmp_path / "host", on_progress=quiet)
    assert not store.objects


FROM = {
    "an update": (
        lambda c: {UPDATE: c.federation.place.objects[UPDATE].data}, "bundle from the helper",
    ),
    "a request": (
        lambda c: {REQUEST: c.federation.place.objects[REQUEST].data}, "bundle from the helper",
    ),
    "no payload of the sum": (
        lambda c: {split_track(next(k for k in c.outpost.objects if "/sum-" in k))[1]: None},
        "lacks tracks/.*/sum-",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FROM)
def test_a_bundle_from_the_helper_is_refused_and_nothing_published(asked, tmp_path, name):
    make, says = FROM[name]
    before = dict(asked.federation.store.objects)
    path = changed(asked, tmp_path, "from", make(asked))
    with pytest.raises(BundleError, match=says):
        asked.load(path, "from")
    assert asked.federation.store.objects == before


def test_an_answer_that_the_helper_has_not_signed_is_refused(asked, tmp_path):
    answer = asked.federation.place.track.on_store(ANSWER)
    forged = asked.outpost.objects[answer].data.replace(b'"sig":"', b'"sig":"AAAA')
    path = changed(asked, tmp_path, "from", {ANSWER: forged})
    with pytest.raises(BundleError, match="manifest.json cannot be accepted"):
        asked.load(path, "from")


def test_what_no_request_names_is_not_published(asked, tmp_path):
    later = layout.update("north", 1)
    path = changed(asked, tmp_path, "for", {later: b"{}"})
    store = MemoryStore()
    done = import_bundle(path, store, home=tmp_path / "host", on_progress=quiet)
    on_store = asked.federation.place.track.on_store
    assert done.n_new
    assert on_store(UPDATE) in store.objects
    assert on_store(later) not in store.objects
