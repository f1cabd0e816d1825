"""Given models, with the real nnU-Net: read by the coordinator, scored at sites, compared."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from life import in_this_process
from nnunetv2.model_sharing.model_export import export_pretrained_model
from synthetic import DATASET, Reports, make_paths, write_dataset

from fedfs.cli import fedfs
from fedfs.errors import FedfsError, MalformedError, SetupError, StudyError, TensorError, UserError
from fedfs.exchange.read import open_study
from fedfs.learner import GivenNetwork
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.trained_model import ReadRequest, read_model
from fedfs.nnunet.score.model_export import ExportRequest, export_model
from fedfs.nnunet.score.predict import predict_and_score
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.system.environment import HostSettings, set_variables
from fedfs.store import open_store
from fedfs.tensors.canonical import TensorFile, write_safetensors

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("given-models")]

NAME = "nnUNetTrainer__fedfsPlans__2d"
ORGAN = "Dataset042_Organ"


@pytest.fixture(scope="module")
def models(study, tmp_path_factory):
    """Model folders: ``ours`` of one fold, ``theirs`` of two, and a zip of the latter."""
    root = tmp_path_factory.mktemp("models")
    for name, scales in {"ours": (1.0,), "theirs": (0.7, 1.3)}.items():
        for fold, scale in enumerate(scales):
            path = root / f"{name}-{fold}.safetensors"
            write_safetensors(path, {n: v * np.float32(scale) for n, v in study.tensors.items()})
            export_model(
                ExportRequest(
                    plans=study.plans, dataset_json=study.dataset_json, fingerprint={},
                    trainer="nnUNetTrainer", configuration="2d", fold=str(fold),
                    tensors=str(path), output=str(root / name), dataset_name=ORGAN,
                    version=1, epochs=1,
                )
            )  # fmt: skip
    variables = {f"nnUNet_{n}": str(root / "theirs") for n in ("raw", "preprocessed", "results")}
    with set_variables(variables):
        export_pretrained_model(
            ORGAN, str(root / "theirs.zip"), ("2d",), "nnUNetTrainer", "fedfsPlans", (0, 1)
        )
    return root


def folder_of(models: Path, name: str) -> Path:
    return models / name / ORGAN / NAME


def read(path: Path, output: Path):
    output.mkdir(exist_ok=True)
    return read_model(ReadRequest(path=str(path), output=str(output)))


def test_a_zip_of_nnunet_and_its_folder_are_read_alike(models, tmp_path, study):
    folder = read(folder_of(models, "theirs"), tmp_path / "folder")
    zipped = read(models / "theirs.zip", tmp_path / "zip")
    assert (folder.plans, folder.dataset_json) == (zipped.plans, zipped.dataset_json)
    assert (zipped.trainer, zipped.configuration) == ("nnUNetTrainer", "2d")
    assert list(zipped.folds) == ["0", "1"]
    for made in (folder, zipped):
        with TensorFile(Path(made.folds["1"])) as tensors:
            assert tensors.keys() == study.tensors.keys()
            assert all(
                np.array_equal(tensors[n], v * np.float32(1.3)) for n, v in study.tensors.items()
            )
    assert not list((tmp_path / "zip").glob("unpacked-*"))


@pytest.fixture
def copied(models, tmp_path):
    """A copy of the model ``ours``, to be spoilt."""
    target = tmp_path / NAME
    shutil.copytree(folder_of(models, "ours"), target)
    return target


def spoil_plans(change):
    def spoil(folder: Path) -> None:
        plans = json.loads((folder / "plans.json").read_text())
        change(plans)
        (folder / "plans.json").write_text(json.dumps(plans))

    return spoil


def spoil_checkpoint(change):
    def spoil(folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)

    return spoil


class Code:
    """What a pickle can make whoever reads it do."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def architecture(plans) -> dict:
    return plans["configurations"]["2d"]["architecture"]


def widen(content) -> None:
    name, value = next(iter(content["network_weights"].items()))
    content["network_weights"][name] = torch.zeros((*value.shape, 2))


def spoil_values(content) -> None:
    next(iter(content["network_weights"].values())).fill_(float("nan"))


FORGERIES = {
    "code in the checkpoint": (
        spoil_checkpoint(lambda c: c.update(logging=Code())), UserError, "not a checkpoint",
    ),
    "another class of network": (
        spoil_plans(lambda p: architecture(p).update(network_class_name="os.system")),
        UserError, "network_class_name 'os.system' is not allowed",
    ),
    "another building block": (
        spoil_plans(lambda p: architecture(p)["arch_kwargs"].update(conv_op="subprocess.run")),
        UserError, "conv_op 'subprocess.run' is not allowed",
    ),
    "a network without end": (
        spoil_plans(lambda p: architecture(p)["arch_kwargs"].update(features_per_stage=4096)),
        UserError, "parameters, more than",
    ),
    "a trainer that nnU-Net has not": (
        spoil_checkpoint(lambda c: c.update(trainer_name="Trojan")), SetupError, "no trainer Tro",
    ),
    "a trainer that is a path": (
        spoil_checkpoint(lambda c: c.update(trainer_name="os.path")), SetupError, "not a Python",
    ),
    "no trainer": (
        spoil_checkpoint(lambda c: c.pop("trainer_name")), UserError, "names no trainer",
    ),
    "a configuration that the plans have not": (
        spoil_checkpoint(lambda c: c["init_args"].update(configuration="4d")),
        UserError, "is not in the plan",
    ),
    "the second stage of a cascade": (
        spoil_plans(lambda p: p["configurations"]["2d"].update(previous_stage="2d")),
        UserError, "second stage of a cascade",
    ),
    "weights of another network": (
        spoil_checkpoint(widen), UserError, "not of the network that its plans describe",
    ),
    "weights that are not finite": (spoil_checkpoint(spoil_values), UserError, "not finite"),
    "no weights": (
        spoil_checkpoint(lambda c: c.pop("network_weights")), UserError, "no network_weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_model_that_is_not_what_it_says_is_refused(copied, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    spoil, error, says = FORGERIES[name]
    spoil(copied)
    with pytest.raises(error, match=says):
        read(copied, tmp_path / "out")
    assert not (tmp_path / "pwned").exists()
    assert not list((tmp_path / "out").iterdir())


def given(study, models, **changes) -> GivenNetwork:
    values = {
        "name": "ours", "plans": study.plans, "trainer": "nnUNetTrainer", "configuration": "2d",
        "folds": {"0": models / "ours-0.safetensors"}, "reference": study.plans, **changes,
    }  # fmt: skip
    return GivenNetwork(**values)


def test_a_site_refuses_a_given_model_with_its_own_reason(study, models, tmp_path, monkeypatch):
    """Whatever the coordinator's host has let through: nothing of it is imported or built."""
    monkeypatch.setattr("fedfs.nnunet.score.cross_evaluation.run_isolated", in_this_process)
    learner = NnUNetLearner(study.site(tmp_path))
    forged = copy.deepcopy(study.plans)
    architecture(forged)["network_class_name"] = "os.system"
    with pytest.raises(MalformedError, match="network_class_name 'os.system' is not allowed"):
        learner.score_given(given(study, models, plans=forged), Reports())
    with pytest.raises(SetupError, match="no trainer Trojan"):
        learner.score_given(given(study, models, trainer="Trojan"), Reports())
    path = tmp_path / "other.safetensors"
    name, value = max(study.tensors.items())
    write_safetensors(path, {**study.tensors, name: np.zeros((*value.shape, 2), np.float32)})
    with pytest.raises(TensorError, match=name):
        learner.score_given(given(study, models, folds={"0": path}), Reports())


def test_two_sites_score_two_models_one_of_them_from_a_zip(models, tmp_path, monkeypatch):
    """As a user does it, from the command line; the scores are those of nnU-Net's predictor."""
    for module in ("fedfs.nnunet.score.cross_evaluation", "fedfs.roles.coordinator.evaluation"):
        monkeypatch.setattr(f"{module}.run_isolated", in_this_process)
    store, folders = tmp_path / "store", {}
    for number, site in enumerate(("north", "south")):
        folders[site] = make_paths(tmp_path / site)
        write_dataset(folders[site].raw, 2 + number, seed=number, shape=(12, 32, 32))

    def run(host, *words, code=0):
        env = {"FEDFS_HOME": str(tmp_path / f"home-{host}")}
        env |= folders[host].variables() if host in folders else {}
        done = CliRunner().invoke(fedfs, [*map(str, words)], env=env, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output

    ours = f"ours={folder_of(models, 'ours')}"
    run(
        "coordinator", "init", store, "--name", "organ", "--encryption", "age",
        "--evaluate", ours, "--evaluate", models / "theirs.zip",
    )  # fmt: skip
    for site in folders:
        run(site, "site", "join", store, "--site", site, "-d", DATASET)
    run("coordinator", "approve", store, "--all")
    for site in folders:
        run(site, "site", "run", store, "--site", site, "--once", "-np", 1, "--device", "cpu")
    run("coordinator", "aggregate", store, "--once")
    for site in folders:
        run(site, "site", "run", store, "--site", site, "--once", code=11)
    assert "no problem found" in run("coordinator", "verify", store)
    run("coordinator", "report", store, "-o", tmp_path / "page.html")
    assert "of-theirs: model theirs" in run("south", "site", "scores", store, "--site", "south")
    with pytest.raises(StudyError, match="keeps no prediction"):
        run("south", "site", "cases", store, "--site", "south", "-o", tmp_path / "cases.html")
    state = open_study(open_store(str(store))).state
    assert {(s, v) for s, _, v in state.evaluations} == {
        (site, f"of-{model}") for site in folders for model in ("ours", "theirs")
    }
    for model, folds in {"ours": "0", "theirs": "0,1"}.items():
        raw = folders["south"].raw / DATASET
        expected = predict_and_score(
            ScoreRequest(
                model=str(folder_of(models, model)), fold=folds, images=str(raw / "imagesTr"),
                labels=str(raw / "labelsTr"), output=str(tmp_path / model),
                host=HostSettings(device="cpu", num_processes=1),
            )
        )  # fmt: skip
        found = state.evaluations["south", 0, f"of-{model}"]
        assert found.n_cases == expected.n_cases == 3
        assert found.mean_dice == pytest.approx(expected.mean_dice, abs=1e-6)
    for folder in folders.values():
        assert not list(folder.preprocessed.rglob("*"))  # nothing is planned or preprocessed
        assert not list(folder.results.rglob("*.pth"))


def test_a_study_of_models_has_nothing_to_choose_about_training(models, tmp_path):
    words = ["init", str(tmp_path / "store"), "--name", "organ", "--evaluate"]
    words += [str(folder_of(models, "ours")), "--rounds", "3"]
    done = CliRunner().invoke(fedfs, words, env={"FEDFS_HOME": str(tmp_path)})
    assert isinstance(done.exception, FedfsError | SystemExit)
    assert "rounds has no meaning" in done.output + str(done.exception)
    assert not (tmp_path / "store").exists()
