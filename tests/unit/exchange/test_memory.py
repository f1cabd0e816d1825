"""Memory of the aggregation that is not on the store, and is made again from the updates."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from fedfs.errors import TensorError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.memory import MemoryFiles
from fedfs.exchange.payloads import fetch_payload
from fedfs.protocol import layout
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK
from fedfs.store.local_files import file_sha256
from support import invariants
from support.federation import Federation, reach

TWO = {"north": 2.0, "south": -3.0}
SMALL = {
    "encoding": "topk", "model_encoding": "topk", "keyframe_every": 3, "rounds": 5,
    "encoding_options": {"fraction": 0.5}, "model_encoding_options": {"fraction": 0.5},
    "targets": TWO,
}  # fmt: skip
SECURE = {
    "secure_sums": True, "encryption": "age", "model_encoding": "int8", "keyframe_every": 3,
    "rounds": 3, "min_sites": 3,
}  # fmt: skip


def versions_of(federation: Federation, kind: str) -> set[int]:
    keys = map(layout.parse, federation.place.objects)
    return {key.version for key in keys if key.kind == kind}


def last_weights(federation: Federation) -> str:
    state = federation.observe().state
    invariants.check(state)
    return state.models[state.newest].weights_sha256


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose versions travel as deltas, each third also in full; read only."""
    federation = Federation(tmp_path_factory.mktemp("study"), **SMALL, strategy="FedAvgM").start()
    federation.run()
    return federation


def memory_of(federation: Federation, folder):
    seen = federation.observe()

    def fetch(ref, max_bytes):
        return fetch_payload(seen.store, ref, folder / "fetched", max_bytes=max_bytes)

    return MemoryFiles(WeightFiles(seen.store, folder / "weights"), folder / "made", fetch)


def test_it_is_on_the_store_with_versions_that_are_there_in_full(study):
    assert versions_of(study, "state-payload") == {3}
    records = study.observe().state.rounds
    assert all(records[version].state_sha256 for version in range(1, 6))
    assert [v for v, record in records.items() if record.state is not None] == [3]
    assert versions_of(study, "keyframe-payload") == {3, 5}


def test_whoever_has_nothing_makes_it_again(study, tmp_path):
    state = study.observe().state
    made = memory_of(study, tmp_path)
    assert made.of(state, 0) is None
    for version in (2, 5, 3):
        path = made.of(state, version)
        assert file_sha256(path) == state.rounds[version].state_sha256
    assert len(list((tmp_path / "made").glob("*.safetensors"))) <= 3


def test_one_that_is_not_what_was_signed_for_is_refused(study, tmp_path):
    state = study.observe().state
    state.rounds[2] = dataclasses.replace(state.rounds[2], state_sha256="0" * 64)
    with pytest.raises(TensorError, match="The memory after version 2 made again, is not the one"):
        memory_of(study, tmp_path).of(state, 2)


def test_verify_makes_all_of_them(study):
    found = list(verify_study(study.observe()))
    assert all(item.level == OK for item in found)
    assert sum("bit by bit the same" in item.text for item in found) == 5


def test_an_aggregator_that_loses_its_files_at_each_version_comes_to_the_same_end(study, tmp_path):
    """Old payloads are deleted, but for what it takes."""
    federation = Federation(tmp_path, **SMALL, strategy="FedAvgM").start()
    for version in range(5):
        reach(federation, version)
        shutil.rmtree(federation.home("coordinator") / "work", ignore_errors=True)
        federation.kill("aggregator")
        federation.process("aggregator")._keep_versions = 1
        federation.process("aggregator").check_memory()
    federation.run()
    assert last_weights(federation) == last_weights(study)


def test_of_two_aggregators_the_slower_one_goes_on_from_the_others_version(tmp_path):
    federation = Federation(tmp_path, **SMALL).start()
    federation.processes["second"] = federation.make_aggregator(work="second")
    federation.run_in_turns("aggregator", "second", *federation.targets)
    assert all(item.level == OK for item in verify_study(federation.observe()))


def test_a_secure_sum_is_taken_again(tmp_path):
    federation = Federation(tmp_path, **SECURE).start()
    reach(federation, 2)
    shutil.rmtree(federation.home("coordinator") / "work")
    federation.kill("aggregator")
    federation.run()
    assert versions_of(federation, "state-payload") == {3}
    assert all(item.level == OK for item in verify_study(federation.observe()))
