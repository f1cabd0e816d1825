"""Averages of versions: made by readers, and validated by sites where the charter says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedfs.errors import StudyError, UserError
from fedfs.exchange.averages import fetch_ema, last_versions, write_mean
from fedfs.exchange.global_weights import WeightFiles
from fedfs.protocol import layout, participation
from fedfs.roles.reader.charter import describe
from fedfs.tensors.canonical import TensorFile
from support.courier import Courier
from support.federation import INITIAL, WITH_NORM, Federation
from support.unlike_networks import NETWORKS, TARGETS

BOTH = {"average_last": 3, "ema": 0.8, "rounds": 4}


def mean_of(federation: Federation, versions, folder: Path) -> dict[str, np.ndarray]:
    observer = federation.observe()
    path = folder / "mean.safetensors"
    write_mean(observer.state, WeightFiles(observer.store, folder, observer.vault), versions, path)
    with TensorFile(path) as file:
        return dict(file)


@pytest.mark.parametrize("options", [{}, {"model_encoding": "int8", "keyframe_every": 10}])
def test_the_mean_of_the_last_versions_is_rounded_once(tmp_path, options):
    federation = Federation(tmp_path, rounds=4, **options).start()
    federation.run()
    made = mean_of(federation, last_versions(4, 3), tmp_path)
    for name in INITIAL:
        values = [federation.weights(v)[name].astype(np.float64) for v in (2, 3, 4)]
        np.testing.assert_array_equal(made[name], (sum(values) / 3).astype(np.float32))


def test_version_0_is_part_of_no_mean_and_missing_versions_are_named(tmp_path):
    with pytest.raises(UserError, match="last 4 versions cannot be made of versions 1 to 3"):
        last_versions(3, 4)
    federation = Federation(tmp_path, rounds=4, ema=0.5).start()
    federation.run()
    state = federation.observe().state
    for payload in (state.models[2].payload, state.models[3].ema):
        del federation.place.objects[payload.key]
    with pytest.raises(StudyError, match="Version 2 is not on the store any more"):
        mean_of(federation, last_versions(4, 3), tmp_path)
    observer = federation.observe()
    with pytest.raises(StudyError, match="average with version 3 is not on the store any more"):
        fetch_ema(observer.state, observer.store, 3, tmp_path, None)
    with pytest.raises(StudyError, match="There is no exponential average with version 0"):
        fetch_ema(observer.state, observer.store, 0, tmp_path, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_local": "norm"},
        {"mode": "asym", "min_coverage": 0.1, "networks": NETWORKS, "targets": TARGETS},
        {"encryption": "age", "model_encoding": "int8"},
    ],
    ids=["ffe", "keep-local", "asym", "encrypted"],
)
def test_every_site_validates_the_averages_of_its_own_network(tmp_path, options):
    federation = Federation(tmp_path, **BOTH, **options).start()
    federation.run()
    state = federation.observe().state
    mean = mean_of(federation, [2, 3, 4], tmp_path)
    for site in federation.targets:
        assert {v for of, version, v in state.evaluations if (of, version) == (site, 4)} == {
            "pseudo", "full", "average", "ema"
        }  # fmt: skip
        kept = federation.averages[site, "average"].kept
        network = federation.process(site)._networks.load(4, state)
        assert kept.keys() == network.tensors.keys()
        for name, own in network.share.own.items():
            np.testing.assert_array_equal(kept[own], mean[name])
        for own in network.private:
            np.testing.assert_array_equal(kept[own], network.tensors[own])
        assert federation.averages[site, "ema"].kept.keys() == kept.keys()
    if "keep_local" in options:
        assert network.private == {"c.norm.bias", "c.norm.weight"} < set(WITH_NORM)


def test_the_study_is_over_for_a_site_once_it_has_validated_them(tmp_path):
    federation = Federation(tmp_path, **BOTH).start()
    while ("north", 4, "full") not in federation.observe().state.evaluations:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    federation.run_process("aggregator")
    assert not participation.is_over(federation.observe().state, ["north"])
    federation.kill("north")
    federation.run()
    assert participation.is_over(federation.observe().state, federation.targets)
    learner = federation.averages["north", "average"]
    assert [call for call, _ in learner.calls].count("finish") == 1


def test_versions_that_sites_average_are_kept(tmp_path):
    federation = Federation(tmp_path, **BOTH).start()
    federation.processes["aggregator"] = federation.make_aggregator()
    federation.processes["aggregator"]._keep_versions = 1
    federation.run()
    keys = [key for key in map(layout.parse, federation.place.objects) if key]
    assert {key.version for key in keys if key.kind == "model-payload"} >= {2, 3, 4}
    assert {key.version for key in keys if key.kind == "ema-payload"} == {2, 3, 4}


def test_a_courier_carries_what_averages_are_made_of(tmp_path):
    """Also where the site has lost its cache of versions since."""
    targets = {"east": 1.0, "north": 2.0}
    courier = Courier(tmp_path, **BOTH, targets=targets, model_encoding="int8")
    courier.join()
    while any(courier.trip()):
        shutil.rmtree(courier.federation.home("north") / "work" / "models", ignore_errors=True)
    state = courier.federation.observe().state
    assert {("north", 4, variant) for variant in ("average", "ema")} <= set(state.evaluations)


def test_the_charter_says_which_averages_there_are(tmp_path):
    rounds = describe(Federation(tmp_path, **BOTH).charter)["Rounds"]
    assert "last 3 versions" in rounds["mean"]
    assert "decay 0.8" in rounds["average"]


@pytest.mark.parametrize("last", [1, 5])
def test_a_mean_that_cannot_be_made_is_refused(tmp_path, last):
    with pytest.raises(UserError, match=f"last {last} versions cannot be made of 4 rounds"):
        Federation(tmp_path, rounds=4, average_last=last)
