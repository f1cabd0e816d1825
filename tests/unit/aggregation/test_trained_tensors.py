"""Studies that train a part of a network: what travels, what stays, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fedfs.aggregation.trained_tensors import is_trained
from fedfs.errors import MalformedError, StudyError, TensorError, TrainingError, UserError
from fedfs.exchange.frozen_tensors import fetch_frozen
from fedfs.learner import TrainResult
from fedfs.nnunet.allowed import allowlist
from fedfs.protocol import layout
from fedfs.roles.coordinator.begin import draft_study
from fedfs.roles.coordinator.continuing import read_finished
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.courier.needed import TrackContent
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.charter import describe
from fedfs.roles.reader.finding import OK, PROBLEM
from fedfs.roles.reader.model_kind import NO_CHOICE, Chosen, fetch_model
from fedfs.roles.reader.privacy import disclosures
from fedfs.roles.reader.status import summarize
from fedfs.store.memory import MemoryStore
from fedfs.tensors.canonical import TensorFile, write_safetensors
from support.federation import DATASET_JSON, WITH_NORM, FakePlanner, Federation

HEADS = ("decoder.seg_layers.0.bias", "decoder.seg_layers.0.weight")
NORM = ("c.norm.bias", "c.norm.weight")
FROZEN = {"a.weight", "b.bias"}
NETWORK = {
    **WITH_NORM,
    HEADS[0]: np.full(2, 0.5, np.float32),
    HEADS[1]: np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
}
TWO = {"north": 2.0, "south": -3.0}


def given(folder: Path, **changes) -> Path:
    """The weights that a study begins with; their segmentation layers are not taken."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pretrained.safetensors"
    write_safetensors(path, {**NETWORK, HEADS[0]: np.zeros(9, np.float32), **changes})
    return path


def begin(folder: Path, train_only="norm,heads", **options) -> Federation:
    made = {"targets": TWO, "rounds": 2, "pretrained": given(folder), **options}
    federation = Federation(folder, train_only=train_only, **made)
    federation.planner = FakePlanner(NETWORK)
    return federation.start()


def run(folder: Path, *args, **options) -> Federation:
    federation = begin(folder, *args, **options)
    federation.run()
    return federation


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("encoder.stages.0.0.convs.0.norm.weight", "norm", True),
        ("encoder.stages.0.0.convs.0.conv.weight", "norm,heads", False),
        ("decoder.seg_layers.3.weight", "heads", True),
        ("decoder.stages.3.convs.0.conv.weight", "decoder.stages.3.*", True),
        ("decoder.stages.30.convs.0.conv.weight", "decoder.stages.3.*", False),
        ("decoder.stages.3.convs.0.conv.weight", "*.bias,decoder.stages.[34].*", True),
        ("normal.weight", "norm", False),
        ("heads", "norm,heads", False),
    ],
)
def test_a_pattern_is_a_group_a_name_or_has_wildcards(name, patterns, expected):
    assert is_trained(name, patterns.split(",")) == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study; read only."""
    return run(tmp_path_factory.mktemp("study"), average_last=2, ema=0.5)


def test_only_what_is_trained_travels_and_the_rest_keeps_its_bits(finished):
    check_study(finished)


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "topk", "model_encoding": "int8", "strategy": "FedAvgM", "encryption": "age"},
        {"keep_local": "norm", "rounds": 1},
        {
            "strategy": "Krum",
            "targets": {"east": 1.0, **TWO},
            "rounds": 1,
            "train_only": "c.*t,heads",
        },
    ],
    ids=["lossy", "keep-local", "by-name"],
)
def test_so_it_is_with_other_rules(tmp_path, options):
    check_study(run(tmp_path, **{"train_only": "norm,heads", **options}))


def check_study(federation: Federation) -> None:
    observer = federation.observe()
    state = observer.state
    patterns = state.charter.train_only.patterns
    trained = {name for name in NETWORK if is_trained(name, patterns)}
    assert set(NETWORK) - trained >= FROZEN
    for version in range(state.newest + 1):
        assert set(federation.weights(version)) == trained
    for site, learner in federation.learners.items():
        for seen in learner.seen.values():
            assert set(seen) == set(NETWORK)
            for name in set(NETWORK) - trained:
                assert seen[name].tobytes() == NETWORK[name].tobytes()
        assert all(task.frozen == set(NETWORK) - trained for task in learner.tasks)
        assert all(not task.private & FROZEN for task in learner.tasks)
        assert set(learner.kept) == set(NETWORK)
        network = federation.make_site(site)._networks.load(1, state)
        np.testing.assert_array_equal(network.tensors[HEADS[0]], federation.weights(1)[HEADS[0]])
    if not state.charter.encryption:
        for key, found in federation.place.objects.items():
            if layout.parse(key).kind == "update-payload":
                assert not any(name.encode() in found.data for name in FROZEN)
    assert all(item.level == OK for item in verify_study(federation.observe("coordinator")))


def test_an_export_is_the_whole_network(finished, tmp_path):
    federation = finished
    for number, chosen in enumerate((NO_CHOICE, Chosen(average_last=2), Chosen(ema=True))):
        folder = tmp_path / str(number)
        path, _ = fetch_model(federation.observe(), 2, chosen, folder)
        with TensorFile(path) as file:
            assert set(file) == set(NETWORK)
            for name in FROZEN:
                assert file.read(name).tobytes() == NETWORK[name].tobytes()
            if chosen == NO_CHOICE:
                for name, value in federation.weights(2).items():
                    np.testing.assert_array_equal(file.read(name), value)


@pytest.mark.parametrize("encoding", ["fp32", "int8"])
def test_an_update_that_holds_a_frozen_tensor_is_refused_by_that_name(tmp_path, encoding):
    federation = begin(tmp_path, encoding=encoding)
    for name in (*federation.targets, "aggregator"):
        federation.run_process(name)
    network = federation.process("north")._networks.load(0, federation.observe().state)
    object.__setattr__(network.share, "own", {name: name for name in NETWORK})
    object.__setattr__(network, "shared", dict(NETWORK))
    federation.run()
    (refused,) = federation.observe().state.rounds[1].excluded
    assert refused.site == "north"
    assert "'a.weight' is frozen: this study trains norm, heads only" in refused.reason


def test_a_site_whose_training_changed_a_frozen_tensor_publishes_no_update(tmp_path):
    federation = begin(tmp_path)
    learner = federation.learners["north"]
    train = learner.train

    def careless(task, tensors, report) -> TrainResult:
        made = train(dataclasses.replace(task, frozen=frozenset()), tensors, report)
        learner.train = train
        return made

    learner.train = careless
    with pytest.raises(TrainingError, match=r"has changed the tensor a\.weight"):
        federation.run()
    assert ("north", 0) not in federation.observe().state.updates
    federation.run()
    (failure,) = federation.observe().state.failures
    assert (failure.site, failure.kind) == ("north", "crash")
    assert ("north", 0) in federation.observe().state.updates  # trained again, as it should be


def test_a_site_does_not_begin_with_other_bits_than_the_charter_names(tmp_path):
    federation = begin(tmp_path)
    charter = federation.observe().state.charter
    assert fetch_frozen(charter, federation.place, tmp_path / "a") is not None
    other = dataclasses.replace(charter.train_only, frozen_sha256="0" * 64)
    with pytest.raises(TensorError, match="other frozen tensors than the charter"):
        fetch_frozen(
            dataclasses.replace(charter, train_only=other), federation.place, tmp_path / "b"
        )
    whole = dataclasses.replace(charter, pretrained=None)
    with pytest.raises(MalformedError, match="names no weights for the rest"):
        whole.check()


def test_a_plan_with_another_network_begins_no_study(tmp_path):
    federation = begin(tmp_path)
    federation.planner = FakePlanner({**NETWORK, "b.bias": np.zeros(4, np.float32)})
    for name in (*federation.targets, "aggregator"):
        with_error = name == "aggregator"
        if with_error:
            with pytest.raises(StudyError, match="does not have the tensors that the study leaves"):
                federation.run_process(name)
        else:
            federation.run_process(name)


def test_verify_misses_the_given_weights(tmp_path):
    federation = begin(tmp_path)
    del federation.place.objects[federation.charter.pretrained.key]
    found = {item.subject: item for item in verify_study(federation.observe())}
    assert found["frozen tensors"].level == PROBLEM


def test_a_courier_brings_the_given_weights_once(tmp_path):
    federation = begin(tmp_path)
    for name in (*federation.targets, "aggregator"):
        federation.run_process(name)
    state, keys = federation.observe().state, set(federation.place.objects)
    ref = federation.charter.pretrained.key
    assert ref in TrackContent(state, keys, "north").for_site()
    assert ref not in TrackContent(state, keys, "north", known=[ref]).for_site()
    assert ref in TrackContent(state, keys, "north").holds("from")


def test_people_are_told_what_is_trained(finished, tmp_path):
    begun = begin(tmp_path)
    assert "norm, heads; 10 parameters are frozen" in summarize(begun.observe().state).trains
    federation = finished
    observer = federation.observe()
    observer.refresh(everything=True)
    trains = summarize(observer.state).trains
    assert trains.startswith("norm, heads: 14 of 24 parameters; each round ")
    assert trains.endswith(" bytes from it")
    assert "10 parameters stay" in describe(federation.charter)["Network"]["trains only"]
    told = disclosures(observer.state, "north", observer.sizes)
    assert "of norm, heads alone" in next(d for d in told if d.what == "updates").amount


def test_a_study_goes_on_from_a_part_and_in_a_part(finished, tmp_path, monkeypatch):
    """Segmentation layers of a finished study stay, so that they need not be trained."""
    monkeypatch.setattr(allowlist, "check_plans", lambda *_: None)  # those of these tests are empty
    first, before = finished, read_finished(finished.store, tmp_path / "finished")
    with TensorFile(before.weights) as file:
        whole = dict(file)
    assert set(whole) == set(NETWORK)
    with pytest.raises(UserError, match="nothing would travel"):
        Federation(
            tmp_path / "third", finished=before, targets=TWO, train_only="norm", keep_local="norm"
        )
    second = Federation(
        tmp_path / "second", finished=before, targets=TWO, rounds=1, train_only="norm"
    ).start()
    second.run()
    assert set(second.weights(0)) == set(NORM)
    for name in NORM:
        np.testing.assert_array_equal(second.weights(0)[name], first.weights(2)[name])
    for name in HEADS:
        np.testing.assert_array_equal(second.learners["north"].seen[0][name], whole[name])
    assert all(item.level == OK for item in verify_study(second.observe()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_only": "heads,*.nrm.*"}, r"no tensor of the given weights is named by '\*\.nrm"),
        ({"train_only": "*"}, "names every tensor"),
        ({"train_only": "norm"}, "leave segmentation layers as they are drawn"),
        ({"train_only": ","}, "has no pattern"),
        ({"train_only": "heads", "keep_local": "norm"}, "that --train-only does not train"),
        ({"train_only": "heads", "mode": "asym"}, "does not go with the mode asym"),
        ({"train_only": "heads", "ensemble": True, "rounds": 1}, "whose models travel whole"),
        ({"train_only": "heads", "pretrained": None}, "whose other weights are there already"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, options, says):
    path = options.pop("pretrained", given(tmp_path))
    store = MemoryStore(clock=lambda: 0.0)
    settings = {"name": "test", "dataset_json": DATASET_JSON, **options}
    with pytest.raises(UserError, match=says):
        draft_study(store, StudyOptions(**settings), versions={}, pretrained=path)
    assert not store.objects
