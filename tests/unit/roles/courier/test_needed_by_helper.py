"""A helper of secure sums without a network: it gets no payload, and brings its sums back."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.errors import BundleError, SealedError, StudyError
from fedfs.protocol import layout
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.courier.sync import Sync
from fedfs.roles.helper.join import join_as_helper
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK
from support import invariants
from support.courier import Courier, HelperCourier, index_of, quiet
from support.federation import HELPER, Federation

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}
SECURE = {
    "secure_sums": True, "secure_scores": True, "encryption": "age", "rounds": 2,
    "targets": TARGETS,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    courier = HelperCourier(tmp_path_factory.mktemp("stick"), **SECURE)
    courier.run()
    return courier


def carried(courier: Courier, direction: str):
    """Return the keys in all bundles of a direction that are encrypted, parsed."""
    paths = sorted(courier.stick.glob(f"*-{direction}.fedfs"))
    assert len(paths) >= 4
    items = [item.key for path in paths[1:] for item in index_of(courier, path).items]
    return [parse_on_store(key) for key in items]


def test_versions_and_totals_are_those_of_a_helper_with_a_network(finished, tmp_path):
    state = finished.federation.observe().state
    invariants.check(state)
    assert state.finished is not None
    assert not state.rejected
    assert {f.level for f in verify_study(finished.federation.observe())} == {OK}
    online = Federation(tmp_path, **SECURE).start()
    online.run()
    for version in (1, 2):
        for name, values in online.weights(version).items():
            np.testing.assert_array_equal(finished.federation.weights(version)[name], values)
    theirs = online.observe().state
    assert state.rounds[1].scores == theirs.rounds[1].scores
    assert state.finished.totals == theirs.finished.totals
    assert not state.finished.totals["full"].fault


def test_the_helper_gets_no_payload_and_of_sites_only_what_a_request_names(finished):
    keys = carried(finished, "for")
    assert not [key.text for key in keys if key.is_payload or key.is_status]
    of_sites = {key.text for key in keys if key.site is not None}
    named = {layout.update(site, version) for site in TARGETS for version in (0, 1)}
    named |= {layout.evaluation(site, v, "pseudo") for site in TARGETS for v in (0, 1, 2)}
    named |= {layout.evaluation(site, 2, "full") for site in TARGETS}
    assert of_sites == named
    assert not [key for key in finished.outpost.objects if "model-" in key or "update-" in key]


def test_the_helper_brings_what_it_has_published_and_each_sum_once(finished):
    keys = carried(finished, "from")
    assert {key.writer for key in keys} == {"+helper"}
    sums = [key.text for key in keys if key.kind == "mask-sum-payload"]
    assert len(sums) == len(set(sums)) == 2
    assert all(finished.carry(direction) == 0 for direction in ("for", "from"))


def test_only_the_helper_opens_what_is_for_it(finished):
    path = max(finished.stick.glob("*-for.fedfs"))
    with pytest.raises(SealedError, match="cannot be decrypted on this host"):
        finished.load(path, "from")


def test_importing_again_in_any_order_is_harmless(finished):
    before = dict(finished.outpost.objects), dict(finished.federation.place.objects)
    for path in sorted(finished.stick.iterdir(), reverse=True):
        direction = "for" if "-for" in path.name else "from"
        assert finished.load(path, direction).n_new == 0
    assert (dict(finished.outpost.objects), dict(finished.federation.place.objects)) == before


def test_a_helper_that_lost_its_folder_gets_everything_again(tmp_path):
    courier = HelperCourier(tmp_path, **SECURE)
    courier.join()
    while courier.others() < 1:
        courier.trip()
    courier.outpost.objects.clear()
    path, _ = courier.export("for")
    with pytest.raises(BundleError, match="first charter") as caught:
        courier.load(path, "for")
    assert "--for-helper --everything" in caught.value.hint
    path, _ = courier.export("for", everything=True)
    courier.load(path, "for")
    courier.federation.processes[HELPER] = courier.federation.new_process(HELPER, courier.outpost)
    while any(courier.trip()):
        pass
    assert courier.federation.observe().state.newest == 2


def test_a_trip_that_was_left_out_is_made_up_for(tmp_path):
    """The charter that names a helper comes with the request, or before it; an old bundle later."""
    courier = HelperCourier(tmp_path, **SECURE)
    courier.join()
    courier.others()
    early, _ = courier.export("for")
    while courier.others() < 1:
        courier.trip()
    assert courier.load(early, "for").n_new == 0
    courier.others()
    late, _ = courier.export("for")
    assert courier.load(late, "for").n_new
    assert "published the sum" in courier.federation.step(HELPER).text


def test_a_study_without_secure_sums_has_no_helper_to_carry_for(tmp_path):
    courier = HelperCourier(tmp_path)
    courier.outpost.objects.update(courier.federation.place.objects)
    for direction in ("for", "from"):
        with pytest.raises(StudyError, match="has no secure sums"):
            courier.export(direction)


def test_sync_serves_a_helper_behind_a_dmz(tmp_path):
    courier = HelperCourier(tmp_path, **SECURE)
    federation, outpost = courier.federation, courier.outpost
    federation.join()
    federation.approve()
    sync = Sync(federation.store, outpost, ["+helper"], on_progress=quiet)
    sync.copy()
    join_as_helper(outpost, federation.home(HELPER), clock=federation.clock)
    sync.copy()
    federation.approve_helper()
    sync.copy()
    federation.processes[HELPER] = federation.make_helper(outpost)
    is_over = False
    while not is_over:
        for name in (*TARGETS, "aggregator", HELPER):
            federation.run_process(name)
        is_over = sync.step().finished
    assert federation.observe().state.finished.totals["full"].n_cases
    assert not [key for key in outpost.objects if "model-" in key or "update-" in key]
    assert sync.copy() == (0, 0)
