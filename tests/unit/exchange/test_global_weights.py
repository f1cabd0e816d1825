"""Global versions as deltas: equal bits everywhere, keyframes, whoever comes late."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedfs.errors import ObjectNotFoundError, TensorError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.protocol import layout
from fedfs.tensors.canonical import weights_sha256
from fedfs.tensors.encodings import ENCODINGS
from support.dying_store import calls_of, kills, run_with_a_kill
from support.federation import Federation, forge

LOSSY = sorted(set(ENCODINGS) - {"fp32"})


def make(folder: Path, **options) -> Federation:
    settings = {"rounds": 7, "model_encoding": "int8", "keyframe_every": 3, **options}
    return Federation(folder, **settings).start()


@pytest.fixture
def finished(tmp_path) -> Federation:
    federation = make(tmp_path)
    federation.run()
    return federation


def hashes(federation: Federation) -> dict[int, str]:
    return {v: m.weights_sha256 for v, m in federation.observe().state.models.items()}


@pytest.mark.parametrize("name", LOSSY)
def test_every_site_reconstructs_the_same_bits(tmp_path, name):
    federation = make(tmp_path, model_encoding=name, rounds=5)
    federation.run()
    models = federation.observe().state.models
    for version, sha256 in hashes(federation).items():
        weights = federation.weights(version)
        assert weights_sha256(weights) == sha256
        if version < 5:
            for learner in federation.learners.values():
                assert weights_sha256(learner.seen[version]) == sha256
    assert {models[v].encoding for v in range(1, 6)} == {name}
    assert models[0].encoding == "fp32"


def test_keyframes_are_there_every_so_many_versions_and_at_the_end(finished):
    models = finished.observe().state.models
    assert [v for v, model in models.items() if model.keyframe] == [3, 6, 7]
    assert [v for v, model in models.items() if model.full] == [0, 3, 6, 7]
    assert models[3].keyframe.key == layout.payload_of_version(
        "keyframe", 3, models[3].keyframe.sha256
    )


def test_a_late_joiner_starts_at_the_newest_keyframe(finished, tmp_path):
    models = finished.observe().state.models
    reads = Recorder(finished.place)
    WeightFiles(reads, tmp_path / "new").fetch(models, 5)
    assert reads.keys == [models[3].keyframe.key, models[4].payload.key, models[5].payload.key]


def test_what_costs_the_fewest_bytes_is_read(tmp_path):
    shapes = {"a": [100, 50]}  # so large that a delta is smaller than the whole
    federation = make(
        tmp_path, mode="asym", networks=dict.fromkeys(("east", "north", "south"), shapes)
    )
    federation.run()
    models = federation.observe().state.models
    reads = Recorder(federation.place)
    files = WeightFiles(reads, tmp_path / "new")
    files.fetch(models, 5)
    reads.keys.clear()
    files.fetch(models, 6)  # there in full too, but the delta is shorter
    assert reads.keys == [models[6].payload.key]
    reads.keys.clear()
    files.fetch(models, 6)
    assert reads.keys == []
    path = WeightFiles(federation.place, tmp_path / "old").fetch(models, 0)
    assert path.exists()
    WeightFiles(reads, tmp_path / "old").fetch(models, 7)  # one whole beats seven deltas
    assert reads.keys == [models[7].keyframe.key]


def test_a_damaged_copy_is_not_used(finished, tmp_path):
    models = finished.observe().state.models
    path = WeightFiles(finished.place, tmp_path / "new").fetch(models, 5)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    again = WeightFiles(finished.place, tmp_path / "new").fetch(models, 5)
    assert weights_sha256(finished.weights(5)) == models[5].weights_sha256
    assert again.read_bytes()[-4:] != b"\0\0\0\1"


def test_a_missing_or_damaged_delta_is_named_and_nothing_is_left(finished, tmp_path):
    models = finished.observe().state.models
    key = models[4].payload.key
    good = finished.place.objects[key]
    forge(finished.place, key, good.data[:-1])
    with pytest.raises(TensorError, match="not those signed for"):
        WeightFiles(finished.place, tmp_path / "new").fetch(models, 5)
    del finished.place.objects[key]
    with pytest.raises(ObjectNotFoundError, match=key):
        WeightFiles(finished.place, tmp_path / "new").fetch(models, 5)
    WeightFiles(finished.place, tmp_path / "new").fetch(models, 6)  # from a keyframe after it


def test_weights_that_are_not_those_signed_for_are_refused(finished, tmp_path):
    models = dict(finished.observe().state.models)
    models[5] = dataclasses.replace(models[5], weights_sha256="0" * 64)
    with pytest.raises(TensorError, match="models/00005/manifest.json has other weights"):
        WeightFiles(finished.place, tmp_path / "new").fetch(models, 5)


def test_what_a_version_does_not_carry_comes_later(tmp_path):
    """With a residual the coarsest encoding arrives where the exact one does."""
    exact = Federation(tmp_path / "exact", rounds=25).start()
    coarse = make(
        tmp_path / "coarse",
        rounds=25,
        model_encoding="topk",
        model_encoding_options={"fraction": 0.3, "bits": 4},
    )
    for federation in (exact, coarse):
        federation.run(max_steps=5000)
    wanted, got = exact.weights(25), coarse.weights(25)
    error = max(float(np.abs(wanted[n] - got[n]).max()) for n in wanted)
    assert error < 0.15


def test_an_aggregator_on_another_host_continues_with_the_same_bits(tmp_path, finished):
    other = make(tmp_path / "other")
    hosts = (other.make_aggregator(work=f"host-{i}") for i in itertools.count())
    for _ in range(40):
        other.processes["aggregator"] = next(hosts)
        if all([other.run_process(n).finished for n in ("aggregator", *other.targets)]):  # noqa: C419  every one of them runs
            break
    assert hashes(other) == hashes(finished)


def test_a_site_that_lost_its_cache_goes_on(tmp_path, finished):
    federation = make(tmp_path / "forgetful")
    for _ in range(60):
        for name in ("aggregator", *federation.targets):
            federation.run_process(name)
        federation.kill("north")
        shutil.rmtree(federation.home("north") / "work" / "models", ignore_errors=True)
        if federation.observe().state.finished:
            break
    assert hashes(federation) == hashes(finished)


@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_at_a_store_call_changes_nothing(tmp_path, victim):
    options = {
        "targets": {"east": 1.0, "north": 2.0},
        "rounds": 3,
        "keyframe_every": 2,
        "encoding": "int8",
        "strategy": "FedAdam",
    }
    whole = make(tmp_path / "whole", **options)
    calls = calls_of(whole, victim, partial(whole.run, seed=1))
    for k, after in kills(calls, few=True):
        federation = make(tmp_path / f"{k}-{after}", **options)
        assert run_with_a_kill(federation, partial(federation.run, seed=1), victim, k, after=after)
        assert hashes(federation) == hashes(whole), f"killed at call {k}, {calls[k - 1]}"


class Recorder:
    """A store that notes what is downloaded."""

    def __init__(self, store) -> None:
        self._store = store
        self.keys: list[str] = []

    def download(self, key, path, *, max_bytes):
        self.keys.append(key)
        self._store.download(key, path, max_bytes=max_bytes)
