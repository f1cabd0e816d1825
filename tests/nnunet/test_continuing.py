"""A new study that begins with the plan and the last version of a finished one."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner
from genuine_plan import genuine
from synthetic import DATASET, dataset_json

from fedfs.cli import fedfs as cli
from fedfs.errors import SealedError, StudyError, UserError
from fedfs.exchange.read import open_study
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.plans import PlanResult
from fedfs.protocol import layout
from fedfs.roles.coordinator.continuing import read_finished
from fedfs.store import open_store
from fedfs.store.memory import MemoryStore
from fedfs.tensors.canonical import TensorFile, weights_sha256, write_safetensors
from fedfs.trust.recipients import Vault
from fedfs.trust.sealing import MAGIC
from fedfs.trust.signing import Envelope
from support.federation import DATASET_JSON, FakePlanner, Federation

ONE = {"rounds": 1, "min_sites": 1, "targets": {"north": 2.0}}
OTHER = "b.bias"


class Plans(FakePlanner):
    """Plans what a real nnU-Net has planned."""

    def __init__(self, plans, tensors=None):
        super().__init__(tensors)
        self.plans = plans

    def plan(self, charter, fingerprint, n_cases):
        return PlanResult(
            plans=self.plans, dataset_json={**DATASET_JSON}, versions={"nnunetv2": "2.7.0"}
        )


class NeverAsked(FakePlanner):
    def plan(self, charter, fingerprint, n_cases):
        raise AssertionError("a study that goes on is not planned again")

    initial_weights = plan


def ended(folder, **options):
    """A study that one fake site has finished."""
    old = Federation(folder, **{**ONE, **options})
    old.planner = Plans(genuine())
    old.start().run()
    return old


def test_version_0_is_the_last_version_and_the_plan_the_same_under_another_name(tmp_path, caplog):
    old = ended(tmp_path / "old", name="old", rounds=2, dataset_name="Dataset042_Organ")
    finished = read_finished(old.store, tmp_path / "cache")
    assert "nnunetv2 is" in caplog.text  # the plan is one of 2.7.0
    assert "here, 2.7.0 in the charter of study 'old'" in caplog.text
    new = Federation(tmp_path / "new", **{**ONE, "name": "new"}, finished=finished)
    new.planner = NeverAsked()
    new.start().run()
    state = new.observe().state
    assert not state.rejected
    assert state.finished.version == 1
    assert weights_sha256(new.weights(0)) == weights_sha256(old.weights(2))
    assert (state.charter.continues.study, state.charter.continues.version) == (
        old.charter.study,
        2,
    )
    name = new.charter.nnunet.plans_name
    expected = genuine()
    expected |= {"dataset_name": "Dataset042_Organ", "plans_name": name}
    for configuration, content in expected["configurations"].items():
        if "data_identifier" in content:
            content["data_identifier"] = f"{name}_{configuration}"
    assert state.plan.plans == json.loads(json.dumps(expected))
    assert state.plan.dataset_json["numTraining"] == 10
    new.approve()  # an amended charter says so still
    # And on from there.
    third = read_finished(new.store, tmp_path / "cache")
    assert third.continues.weights_sha256 == weights_sha256(new.weights(1))


def test_one_track_of_a_study_is_gone_on_from(tmp_path):
    old = ended(tmp_path / "old", fold="0,1")
    finished = read_finished(old.store, tmp_path / "cache", "3d_fullres-1")
    new = Federation(tmp_path / "new", **ONE, finished=finished).start()
    new.planner = NeverAsked()
    new.run()
    assert [track.name for track in new.charter.tracks] == ["3d_fullres-1"]
    assert weights_sha256(new.weights(0)) == weights_sha256(old.weights(1, "3d_fullres-1"))
    assert weights_sha256(new.weights(0)) != weights_sha256(old.weights(1, "3d_fullres-0"))


def step_with_another_plan(federation):
    """A step of an aggregator that plans something else than it was given."""
    publisher = federation.process("aggregator")._publisher
    publish = publisher.publish

    def other_plan(message, **others):
        if hasattr(message, "plans"):
            message = dataclasses.replace(message, plans=genuine())
        return publish(message, **others)

    publisher.publish = other_plan
    federation.step("aggregator")


def test_an_aggregator_cannot_go_on_from_anything_else(tmp_path, monkeypatch):
    old = ended(tmp_path / "old")
    finished = read_finished(old.store, tmp_path / "cache")
    with TensorFile(finished.weights) as file:
        tensors = dict(file)
    write_safetensors(tmp_path / "other", {**tensors, OTHER: tensors[OTHER] + 1})
    swapped = dataclasses.replace(finished, weights=tmp_path / "other")
    new = Federation(tmp_path / "new", **ONE, finished=swapped).start()
    for name in ("north", "aggregator", "north"):
        if name == "aggregator":
            with pytest.raises(StudyError, match="are not version 1 of study test-"):
                new.run_process(name)
        else:
            new.run_process(name)

    # An aggregator that does not look at the weights, or plans for itself, is not believed.
    monkeypatch.setattr(
        "fedfs.roles.aggregator.initial_version.weights_sha256",
        lambda _: finished.continues.weights_sha256,
    )
    new.step("aggregator")
    refused = open_study(new.store).state.rejected
    assert refused == {
        layout.model(0): "the message is not the version that the study continues from"
    }

    forged = Federation(tmp_path / "forged", **ONE, finished=finished).start()
    forged.run_process("north")
    step_with_another_plan(forged)
    refused = open_study(forged.store).state.rejected
    assert refused == {
        layout.plan(): "the message is not the plan of the study that this one continues"
    }


def test_what_is_encrypted_stays_so_when_it_is_gone_on_from(tmp_path):
    old = ended(tmp_path / "old", encryption="age")
    with pytest.raises(SealedError, match="is encrypted, and this host holds no key for it"):
        read_finished(old.store, tmp_path / "cache")
    vault = Vault(old.home("coordinator"))
    finished = read_finished(old.store, tmp_path / "cache", vault=vault)
    with pytest.raises(UserError, match="Study 'test' is encrypted; the new one") as caught:
        finished.options({"name": "x"})
    assert caught.value.hint == "give --encryption age"

    new = Federation(tmp_path / "new", **ONE, finished=finished, encryption="age")
    new.planner = NeverAsked()
    new.start().run()
    state = new.observe().state
    assert not state.rejected
    assert state.finished.version == 1
    assert state.models[0].weights_sha256 == old.observe().state.finished.weights_sha256
    assert state.plan.plans["configurations"].keys() == genuine()["configurations"].keys()
    assert state.plan.plans == state.given_plans

    # Nobody else can read plan or weights: neither in the first charter nor in an amended one.
    stranger = new.observe("stranger").state
    assert not stranger.rejected
    assert not stranger.given_plans
    for number, charter in state.charters.items():
        assert not charter.continues.plans
        payload = Envelope(new.store.objects[layout.charter(number)].data).payload
        assert b"patch_size" not in payload
    assert len(state.charters) > 1
    assert new.store.objects[state.charter.pretrained.key].data.startswith(MAGIC)


def test_a_study_in_the_open_is_gone_on_from_by_an_encrypted_one(tmp_path):
    finished = read_finished(ended(tmp_path / "old").store, tmp_path / "cache")
    new = Federation(tmp_path / "new", **ONE, finished=finished, encryption="age")
    new.planner = NeverAsked()
    new.start().run()
    assert new.observe().state.finished.version == 1
    # An aggregator plans nothing else, also where others cannot see that it does.
    forged = Federation(tmp_path / "forged", **ONE, finished=finished, encryption="age").start()
    forged.run_process("north")
    step_with_another_plan(forged)
    refused = forged.observe("north").state.rejected
    assert refused == {
        layout.plan(): "the message is not the plan of the study that this one continues"
    }


def test_what_cannot_be_continued_is_refused_with_a_reason(tmp_path):
    def refusal(old, reason):
        with pytest.raises(StudyError, match=reason) as caught:
            read_finished(old.store, tmp_path / "cache")
        assert caught.value.hint

    underway = Federation(tmp_path / "a", **ONE)
    refusal(underway, "Study 'test' is not finished: it has version 0 of 1")
    refusal(Federation(tmp_path / "b", **ONE, mode="asym"), "in the mode asym every site has a")
    refusal(Federation(tmp_path / "t", **ONE, configuration="2d,3d_fullres"), "has several tracks")
    finished = read_finished(ended(tmp_path / "d").store, tmp_path / "cache")
    with pytest.raises(UserError, match="trainer 'nnUNetTrainerAdam' is not that of study 'test'"):
        finished.options({"name": "x", "trainer": "nnUNetTrainerAdam"})
    with pytest.raises(UserError, match=r"disagrees with study 'test'"):
        finished.options({"name": "x", "dataset_json": {**DATASET_JSON, "labels": {"a": 0}}})
    with pytest.raises(StudyError, match="holds no federation"):
        read_finished(MemoryStore(), tmp_path)


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    old = ended(tmp_path / "old", fold="1", planner="nnUNetPlannerResEncM")
    store = open_store(str(tmp_path / "store"), must_exist=False)
    for key, found in old.store.objects.items():
        store.create(key, found.data)

    def init(*options):
        args = ["init", str(tmp_path / "new"), "--name", "new", *options]
        return CliRunner().invoke(cli, [*args, "--continue", str(tmp_path / "store")])

    refused = init("--fold", "0")
    assert "fold '0' is not that of study 'test', which has '1'" in str(refused.exception)
    (tmp_path / "study.toml").write_text("rounds = 7\nfold = 0\n")
    refused = init(str(tmp_path / "study.toml"))
    assert "study.toml, line 2 (fold): The fold '0' is not that of" in str(refused.exception)
    assert not (tmp_path / "new").exists()
    made = init("--rounds", "7", "--fold", "1")
    assert made.exit_code == 0, made.output
    assert f"version 1 of {old.charter.study}" in made.output
    charter = open_study(open_store(str(tmp_path / "new"))).state.charter
    spec = charter.nnunet
    assert ([track.fold for track in charter.tracks], spec.planner) == (
        ["1"],
        "nnUNetPlannerResEncM",
    )
    assert (charter.dataset, charter.schedule.rounds) == (old.charter.dataset, 7)


@pytest.mark.nnunet
@pytest.mark.usefixtures("no_workers")
def test_nnunet_trains_on_from_there(study, tmp_path):
    """The real nnU-Net at the site, before and after; the plan and version 0 from its planner."""
    settings = {
        **ONE,
        "dataset_json": {**dataset_json(6)},
        "configuration": "2d",
        "val_iterations": 1,
        "local_iterations": 2,
    }

    def run(name, **options):
        federation = Federation(tmp_path / name, **settings, name=name, **options)
        site = study.site(tmp_path / name, dataset=DATASET, full_validation=False)
        federation.learners["north"] = NnUNetLearner(site)
        federation.planner = NeverAsked() if options else Plans(study.plans, study.tensors)
        try:
            federation.start().run()
        finally:
            federation.learners["north"].close()
        return federation, site.paths.results

    old, _ = run("old")
    new, results = run("new", finished=read_finished(old.store, tmp_path / "cache"))
    assert weights_sha256(new.weights(0)) == weights_sha256(old.weights(1))
    assert weights_sha256(new.weights(1)) != weights_sha256(new.weights(0))
    model = f"nnUNetTrainer__{new.charter.nnunet.plans_name}__2d"
    assert (results / DATASET / model / "fold_0" / "checkpoint_final.pth").is_file()
