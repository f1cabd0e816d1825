"""What is deleted of an old study, and that nobody misses it."""

from __future__ import annotations

import shutil

import pytest

from fedfs.exchange.retention import payloads_in_use
from fedfs.protocol import layout
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from support import invariants
from support.courier import Courier
from support.federation import Federation


def keep(federation: Federation, versions: int) -> None:
    federation.processes["aggregator"] = federation.make_aggregator()
    federation.processes["aggregator"]._keep_versions = versions


def payload_versions(federation: Federation, kind: str) -> set[int]:
    keys = map(layout.parse, federation.place.objects)
    return {key.version for key in keys if key.kind == kind}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_encoding": "int8", "keyframe_every": 3},
        {"strategy": "FedAdam"},
        {"policy": "quorum", "policy_options": {"sites": 2}},
    ],
    ids=["full", "deltas", "memory", "quorum"],
)
@pytest.mark.parametrize("versions", [1, 2])
def test_a_study_that_forgets_comes_to_the_same_end(tmp_path, options, versions):
    ends = []
    for forgets in (False, True):
        federation = Federation(tmp_path / str(forgets), rounds=7, **options).start()
        if forgets:
            keep(federation, versions)
        federation.run(seed=versions)
        state = federation.observe().state
        invariants.check(state)
        ends.append(state.models[7].weights_sha256)
    assert ends[0] == ends[1]
    assert len(payload_versions(federation, "model-payload")) <= 6
    assert 7 in payload_versions(federation, "model-payload") | payload_versions(
        federation, "keyframe-payload"
    )
    assert min(payload_versions(federation, "update-payload"), default=7) >= 7 - versions - 1
    assert federation.weights(7)  # for a host that has nothing


def test_what_a_slow_site_trains_from_is_kept_until_its_update_is_settled(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2}, "rounds": 9}
    federation = Federation(tmp_path, **options).start()
    keep(federation, 1)
    slow = federation.process("south")
    while ("south", 0, "pseudo") not in federation.observe().state.evaluations:
        for name in federation.targets:
            if name != "south" or federation.observe().state.newest < 1:
                federation.step(name)
        if federation.observe().state.newest < 0:
            federation.run_process("aggregator")
    for _ in range(3):
        for name in ("east", "north", "aggregator"):
            federation.run_process(name)
    newest = federation.observe().state.newest
    assert newest >= 3
    assert payload_versions(federation, "model-payload") == {0, newest}
    slow._train(0, slow._observer.state)
    for name in ("east", "north", "aggregator"):
        federation.run_process(name)
    record = federation.observe().state.rounds[newest + 1]
    assert ("south", 0) in {(u.site, u.base_version) for u in record.updates}
    assert not record.excluded


def test_an_update_from_a_version_that_is_gone_is_refused_and_holds_nobody_up(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2}, "rounds": 9}
    federation = Federation(tmp_path, **options).start()
    for name in (*federation.targets, "aggregator"):
        federation.run_process(name)
    federation.run_process("south")  # has answered version 0
    payload = federation.observe().state.updates["south", 0].payload.key
    kept = federation.place.objects.pop(payload)
    for name in ("east", "north", "aggregator"):
        federation.run_process(name)
    federation.place.objects[payload] = kept
    state = federation.observe().state
    del federation.place.objects[state.models[0].payload.key]
    federation.processes["aggregator"] = federation.make_aggregator(work="another-host")
    for name in ("east", "north", "aggregator"):
        federation.run_process(name)
    record = federation.observe().state.rounds[2]
    assert [item.reason for item in record.excluded] == [
        "the update comes from version 0, which is not kept any more"
    ]


def test_a_delta_needs_all_that_it_is_made_from(tmp_path):
    federation = Federation(tmp_path, rounds=5, model_encoding="int8", keyframe_every=3).start()
    federation.run()
    models = federation.observe().state.models
    assert payloads_in_use(models, [5]) == {models[5].keyframe.key}
    assert payloads_in_use(models, [4]) == {models[4].payload.key, models[3].keyframe.key}
    assert payloads_in_use(models, [2]) == {
        models[2].payload.key,
        models[1].payload.key,
        models[0].payload.key,
    }


def test_an_update_that_comes_by_courier_with_its_evaluation_is_used(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2}, "rounds": 9}
    courier = Courier(tmp_path, **options)
    courier.join()
    federation = courier.federation
    keep(federation, 1)
    courier.trip()  # brings the fingerprint
    for _ in range(3):
        courier.others()
    courier.carry("for")
    for _ in range(3):
        courier.others()
    newest = federation.observe().state.newest
    federation.run_process(courier.site)
    shutil.rmtree(federation.home("coordinator") / "work")  # the cache may have it still
    assert courier.carry("from")
    courier.others()
    rounds = federation.observe().state.rounds
    base = federation.observe().state.answered[courier.site]
    assert 0 < base < newest - 1
    used = {(one.site, one.base_version) for record in rounds.values() for one in record.updates}
    assert (courier.site, base) in used
    assert not any(record.excluded for record in rounds.values())


def test_nothing_is_kept_for_a_site_that_is_away(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2}, "rounds": 9}
    federation = Federation(tmp_path, **options).start()
    keep(federation, 1)
    for name in federation.targets:
        federation.step(name)  # its fingerprint, and nothing more of south
    for _ in range(3):
        for name in ("aggregator", "east", "north"):
            federation.run_process(name)
    assert payload_versions(federation, "model-payload") == {0, 1, 2}
    roster = Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock)
    set_state(roster, ["south"], "paused")
    federation.run_process("aggregator")
    assert payload_versions(federation, "model-payload") == {0, 3}
