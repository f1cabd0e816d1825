"""Normalisation layers that every site keeps to itself (FedBN), in whole studies."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import StudyError, UserError
from fedfs.nnunet.allowed import allowlist
from fedfs.protocol import layout
from fedfs.roles.coordinator.continuing import read_finished
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.charter import describe
from fedfs.roles.reader.export import export_versions
from fedfs.roles.reader.finding import OK
from fedfs.roles.reader.privacy import disclosures
from fedfs.tensors.canonical import TensorFile
from support.federation import WITH_NORM, Federation
from support.unlike_networks import NETWORKS, NORM, TARGETS

LOCAL = ("c.norm.bias", "c.norm.weight")
MEAN = {"keep_local": "norm", "keep_local_export": "mean"}
WITHHELD = {"keep_local": "norm"}
TWO = {"east": 1.0, "north": 2.0}


def run(folder, **options) -> Federation:
    federation = Federation(folder, **options).start()
    federation.run()
    return federation


def half_way(federation: Federation, site: str, name: str):
    """Yield a site's own values before each round: half way to its target in each."""
    value = WITH_NORM[name]
    while True:
        yield value
        value = value + (federation.learners[site].target - value) / 2


def check_own_values(federation: Federation) -> None:
    """Each site trains on from its own values; all else is the version's."""
    for site in federation.targets:
        seen = federation.learners[site].seen
        for name in LOCAL:
            for version, value in zip(range(3), half_way(federation, site, name), strict=False):
                np.testing.assert_array_equal(seen[version][name], value)
        for version in range(3):
            published = federation.weights(version)
            for name in set(published) - set(LOCAL):
                np.testing.assert_array_equal(seen[version][name], published[name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.stages.0.0.convs.0.norm.weight", True),
        ("encoder.stem.convs.0.norm.running_mean", True),
        ("encoder.stages.1.blocks.0.skip.1.norm.bias", True),
        ("decoder.stages.r0.convs.0.norm.weight@32", True),
        ("norm1.bias", True),
        ("encoder.stages.0.0.convs.0.conv.weight", False),
        ("encoder.norm.conv.weight", False),
        ("decoder.seg_layers.0.bias", False),
        ("decoder.seg_layers.r0.bias@2", False),
        ("abnorm.weight", False),
    ],
)
def test_the_name_tells_a_normalisation_layer(name, expected):
    assert is_normalisation(name) == expected


def test_what_is_kept_local_is_in_no_update_and_no_version_moves_it(tmp_path):
    federation = run(tmp_path, **WITHHELD)
    check_own_values(federation)
    for version in range(4):
        for name in LOCAL:
            np.testing.assert_array_equal(federation.weights(version)[name], WITH_NORM[name])
    for key, found in federation.place.objects.items():
        if layout.parse(key).kind == "update-payload":
            assert b"norm" not in found.data
    tasks = federation.learners["north"].tasks
    assert all(task.private == set(LOCAL) for task in tasks)  # FedProx holds them to no base
    assert all(item.level == OK for item in verify_study(federation.observe()))


def test_the_mean_of_what_is_kept_local_is_for_others_only(tmp_path):
    federation = run(tmp_path, **MEAN)
    check_own_values(federation)
    weights = {used.site: used.weight for used in federation.observe().state.rounds[1].updates}
    for name in LOCAL:
        values = {site: half_way(federation, site, name) for site in weights}
        for version in range(4):
            mean = sum(weights[site] * next(values[site]) for site in weights)
            np.testing.assert_allclose(federation.weights(version)[name], mean, rtol=1e-5)
    assert all(item.level == OK for item in verify_study(federation.observe()))


def test_what_a_lossy_encoding_left_of_them_is_not_sent_again(tmp_path):
    """A site's own values have it already, other than those that begin from a version."""
    exact, lossy = (
        run(tmp_path / encoding, **MEAN, targets=TWO, rounds=6, encoding=encoding)
        for encoding in ("fp32", "int8")
    )
    for name in LOCAL:
        np.testing.assert_allclose(lossy.weights(6)[name], exact.weights(6)[name], atol=0.02)
    site = lossy.make_site("north")
    network = site._networks.load(6, lossy.observe().state)
    assert set(network.residual) == set(WITH_NORM) - set(LOCAL)


@pytest.mark.parametrize("strategy", ["FedAdam", "Krum"])
def test_strategies_pass_over_what_is_kept_local(tmp_path, strategy):
    federation = run(tmp_path, **WITHHELD, strategy=strategy, model_encoding="int8")
    for name in LOCAL:
        np.testing.assert_array_equal(federation.weights(3)[name], WITH_NORM[name])
    assert all(item.level == OK for item in verify_study(federation.observe()))


@pytest.mark.parametrize("options", [WITHHELD, MEAN], ids=["withheld", "mean"])
def test_a_site_that_comes_late_begins_with_what_the_version_has(tmp_path, options):
    federation = Federation(tmp_path, **options, min_sites=2)
    federation.join("east", "north")
    federation.approve()
    while federation.observe().state.newest < 1:
        for name in ("aggregator", "east", "north"):
            federation.step(name)
    federation.join("south")
    federation.approve("south")
    federation.run()
    first, tensors = next(iter(federation.learners["south"].seen.items()))
    assert first > 0
    for name in LOCAL:
        np.testing.assert_array_equal(tensors[name], federation.weights(first)[name])


def test_a_site_that_was_paused_goes_on_with_its_own_values(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2, "deadline_minutes": 1}}
    federation = Federation(tmp_path, **WITHHELD, **options).start()
    while ("north", 0) not in federation.observe().state.updates:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    federation.kill("north")
    while federation.observe().state.newest < 2:
        federation.now_s += 600
        for name in ("aggregator", "east", "south"):
            federation.step(name)
    federation.run()
    value = WITH_NORM[LOCAL[0]] + (federation.learners["north"].target - WITH_NORM[LOCAL[0]]) / 2
    np.testing.assert_array_equal(federation.learners["north"].seen[2][LOCAL[0]], value)


def test_values_that_are_lost_begin_anew_from_the_version_and_say_so(tmp_path, caplog):
    federation = Federation(tmp_path, **WITHHELD).start()
    while ("north", 0) not in federation.observe().state.updates:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    for path in (federation.home("north") / "work").glob("kept-*"):
        path.unlink()
    federation.kill("north")
    federation.run()
    assert "private tensors are lost" in caplog.text
    seen = federation.learners["north"].seen[1]
    np.testing.assert_array_equal(seen[LOCAL[0]], WITH_NORM[LOCAL[0]])


def test_a_local_model_beside_them_begins_as_the_study_did(tmp_path, caplog):
    federation = Federation(tmp_path, **WITHHELD, alone=("north",)).start()
    federation.run()
    np.testing.assert_array_equal(federation.alone["north"].seen[0][LOCAL[1]], WITH_NORM[LOCAL[1]])
    assert "lost" not in caplog.text


def test_unlike_networks_share_no_normalisation_layer(tmp_path):
    networks = {site: {**network, **NORM} for site, network in NETWORKS.items()}
    options = {"mode": "asym", "min_coverage": 0.1, "targets": TARGETS, "networks": networks}
    federation = run(tmp_path, **WITHHELD, **options)
    (own,) = NORM
    assert not any("norm" in name for name in federation.weights(3))
    state = federation.observe().state
    assert not any("norm" in name for group in state.plan.shared for name in group.tensors)
    assert state.plan.coverage["south"] < 1.0
    values = [federation.learners[site].seen[2][own] for site in ("east", "north")]
    assert not np.array_equal(*values)
    assert all(item.level == OK for item in verify_study(federation.observe()))


def test_an_update_that_holds_what_is_kept_local_is_refused(tmp_path):
    federation = Federation(tmp_path, **WITHHELD).start()
    for name in (*federation.targets, "aggregator"):
        federation.run_process(name)
    network = federation.process("north")._networks.load(0, federation.observe().state)
    object.__setattr__(network.share, "own", network.share.in_versions)
    object.__setattr__(network, "shared", dict(federation.weights(0)))
    federation.run()
    (refused,) = federation.observe().state.rounds[1].excluded
    assert refused.site == "north"
    assert "norm.bias' is unexpected" in refused.reason


def test_only_sites_have_a_model_of_what_they_keep_to_themselves(tmp_path):
    federation = run(tmp_path, **WITHHELD)
    with pytest.raises(StudyError, match="no model is complete without them") as caught:
        export_versions(federation.store, tmp_path / "results")
    assert "--site NAME" in caught.value.hint
    with pytest.raises(StudyError, match="lacks the normalisation layers"):
        read_finished(federation.store, tmp_path / "finished")
    observer = federation.observe()
    observer.refresh(everything=True)
    told = disclosures(observer.state, "north", observer.sizes)
    assert "without normalisation layers" in next(d for d in told if d.what == "updates").amount
    assert (
        "only sites have complete models" in describe(federation.charter)["Network"]["stays local"]
    )


def test_a_study_goes_on_from_one_whose_versions_have_the_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(allowlist, "check_plans", lambda *_: None)  # those of these tests are empty
    first = run(tmp_path / "first", **MEAN)
    finished = read_finished(first.store, tmp_path / "finished")
    with TensorFile(finished.weights) as file:
        np.testing.assert_array_equal(file.read(LOCAL[0]), first.weights(3)[LOCAL[0]])
    second = Federation(tmp_path / "second", finished=finished, **WITHHELD).start()
    second.run()
    np.testing.assert_array_equal(second.weights(3)[LOCAL[0]], first.weights(3)[LOCAL[0]])
    assert "their mean is in versions" in describe(first.charter)["Network"]["stays local"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep_local": "conv"}, "cannot keep 'conv' local"),
        ({"keep_local_export": "mean"}, "in the mode ffe"),
        ({**MEAN, "mode": "asym"}, "in the mode ffe"),
        ({**MEAN, "strategy": "FedAdam"}, "strategy makes a step"),
        ({**MEAN, "encoding": "topk"}, "topk carry a part"),
        ({**MEAN, "encoding": "randk"}, "randk carry a part"),
        ({**MEAN, "strategy": "FedAvgM", "strategy_options": {"clip_norm": 1}}, "makes a step"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        Federation(tmp_path, **options)


def test_a_charter_that_keeps_what_nobody_knows_is_not_obeyed(tmp_path):
    federation = Federation(tmp_path).start()
    charter = federation.process("north")._observer.state.charters
    number = max(charter)
    object.__setattr__(charter[number], "keep_local", "everything")
    with pytest.raises(StudyError, match="'everything' local, which this version"):
        federation.process("north").decide(federation.process("north")._observer.state)
