"""The exported model, through nnU-Net's own commands."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from life import in_this_process
from nnunetv2.inference.predict_from_raw_data import (
    predict_entry_point,
    predict_entry_point_modelfolder,
)
from synthetic import DATASET, Reports

from fedfs.errors import TensorError, UserError
from fedfs.learner import METRICS, RoundTask
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.pretrained import read_checkpoint
from fedfs.nnunet.score.model_export import ExportRequest, export_model
from fedfs.nnunet.score.predict import ScoreRequests
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.settings import ScoreOptions
from fedfs.nnunet.system.environment import HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.roles.site.own_model import train_to_the_end
from fedfs.tensors.canonical import TensorFile
from support.one_process import call

pytestmark = pytest.mark.nnunet

EXPORTED = "Dataset800_Study"
MODEL = "nnUNetTrainer__fedfsPlans__2d"


def request(study, output, **changes):
    values = {
        "plans": study.plans,
        "dataset_json": study.dataset_json,
        "fingerprint": study.fingerprint,
        "trainer": "nnUNetTrainer",
        "configuration": "2d",
        "fold": "all",
        "tensors": str(study.weights_file),
        "output": str(output),
        "dataset_name": EXPORTED,
        "version": 3,
        "epochs": 6,
    }
    return ExportRequest(**{**values, **changes})


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported")
    models = [dataclasses.asdict(request(study, output))]
    found = run_isolated("export", {"models": models}, workdir=output)["models"][0]
    assert found == str(output / EXPORTED / MODEL)
    return output


@pytest.fixture
def one_case(study, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(study.paths.raw / DATASET / "imagesTr" / "case_000_0000.nii.gz", images)
    return images


def run(program, *args, **environ):
    """Call what one of nnU-Net's commands calls; a process of it imports for seconds."""
    env = {"PATH": os.environ["PATH"], "nnUNet_def_n_proc": "1", **environ}
    code, out, err = call(program, "nnU-Net", *map(str, args), env=env)
    assert code == 0, out + err


def test_the_folder_is_complete_and_nothing_else_is_left(exported):
    model = exported / EXPORTED / MODEL
    assert sorted(p.relative_to(exported / EXPORTED) for p in model.parent.rglob("*")) == sorted(
        Path(MODEL, name)
        for name in (
            ".", "plans.json", "dataset.json", "dataset_fingerprint.json",
            "fold_all", "fold_all/checkpoint_final.pth", "fold_all/fedfs.json",
            "fold_all/progress.png", "fold_all/validation", "fold_all/validation/summary.json",
        )
    )  # fmt: skip


def test_the_checkpoint_is_what_nnunet_writes(exported, study):
    checkpoint = torch.load(
        exported / EXPORTED / MODEL / "fold_all" / "checkpoint_final.pth", weights_only=False
    )
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == "2d"
    assert checkpoint["current_epoch"] == 6
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1)
    for name, value in study.tensors.items():
        assert np.array_equal(checkpoint["network_weights"][name].numpy(), value)


def test_the_weights_can_be_read_back_without_running_code(exported, study, tmp_path):
    checkpoint = exported / EXPORTED / MODEL / "fold_all" / "checkpoint_final.pth"
    output = tmp_path / "weights.safetensors"
    fields = {"checkpoint": str(checkpoint), "output": str(output)}
    in_this_process("convert_checkpoint", fields, workdir=tmp_path)
    with TensorFile(output) as tensors:
        assert tensors.keys() == study.tensors.keys()
        assert all(np.array_equal(tensors[name], study.tensors[name]) for name in tensors)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_other_files_are_not_taken_for_checkpoints(tmp_path, content):
    path = tmp_path / "x.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="x.pth"):
        read_checkpoint(path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "attacked",)

    torch.save({"network_weights": {}, "x": Attack()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "attacked").exists()


def test_nnunetv2_predict_takes_it(exported, one_case, tmp_path, forked_pools):
    out = tmp_path / "out"
    run(
        predict_entry_point, "-i", one_case, "-o", out, "-d", "800", "-c", "2d", "-f", "all",
        "-tr", "nnUNetTrainer", "-p", "fedfsPlans", "-device", "cpu", "--disable_tta",
        "-npp", 1, "-nps", 1, nnUNet_results=str(exported),
    )  # fmt: skip
    image = SimpleITK.ReadImage(str(one_case / "case_000_0000.nii.gz"))
    assert SimpleITK.ReadImage(str(out / "case_000.nii.gz")).GetSize() == image.GetSize()


def test_nnunetv2_predict_from_modelfolder_takes_it(exported, one_case, tmp_path, forked_pools):
    run(
        predict_entry_point_modelfolder, "-i", one_case, "-o", tmp_path / "out",
        "-m", exported / EXPORTED / MODEL, "-f", "all", "-device", "cpu", "--disable_tta",
        "-npp", 1, "-nps", 1,
    )  # fmt: skip
    assert (tmp_path / "out" / "case_000.nii.gz").exists()


def test_the_same_version_may_be_exported_twice(exported, study):
    assert export_model(request(study, exported)) == exported / EXPORTED / MODEL


@pytest.mark.parametrize("changes", [{"version": 4}, {"fold": "1", "file_ending": ".mha"}])
def test_a_different_model_is_not_overwritten(exported, study, changes):
    if ending := changes.pop("file_ending", ""):
        changes["dataset_json"] = {**study.dataset_json, "file_ending": ending}
    with pytest.raises(UserError, match="holds another model") as caught:
        export_model(request(study, exported, **changes))
    assert caught.value.hint


def test_another_fold_is_added_to_the_model(exported, study, tmp_path):
    shutil.copytree(exported, tmp_path / "out")
    model = export_model(request(study, tmp_path / "out", fold="1"))
    assert {path.name for path in model.glob("fold_*")} == {"fold_1", "fold_all"}
    assert not list(model.parent.glob(".*"))


def test_nothing_is_left_of_an_export_that_failed(study, tmp_path):
    from fedfs.tensors.canonical import write_safetensors  # noqa: PLC0415  used here only

    path = tmp_path / "short.safetensors"
    write_safetensors(path, dict(list(study.tensors.items())[1:]))
    with pytest.raises(TensorError):
        export_model(request(study, tmp_path / "out", tensors=str(path)))
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_a_model_folder_is_scored_on_other_images(exported, study, tmp_path, forked_pools):
    raw = study.paths.raw / DATASET
    score = ScoreRequest(
        model=str(exported / EXPORTED / MODEL),
        fold="all",
        images=str(raw / "imagesTr"),
        labels=str(raw / "labelsTr"),
        output=str(tmp_path / "predicted"),
        host=HostSettings(device="cpu", num_processes=1),
        use_mirroring=False,
        scores=ScoreOptions(nsd_tolerance_mm=2.0, calibration=True),
    )
    again = dataclasses.replace(score, output=str(tmp_path / "again"))
    seen = []
    made = in_this_process(
        "score", ScoreRequests((score, again)), workdir=tmp_path, on_progress=seen.append
    )
    for result in made["results"]:
        assert result["n_cases"] == 6
        assert set(result["classes"]) == {"shell", "core"}
        assert result["nsd_tolerance_mm"] == 2.0
        found = {metric for case in result["by_case"].values() for metric in case["shell"]}
        assert found == set(METRICS)
    assert [one.done for one in seen] == [0, 1, 2]
    assert (tmp_path / "predicted" / "summary.json").exists()
    assert (tmp_path / "again" / "case_scores.json").exists()


def test_training_alone_is_one_round_of_all_epochs(study, tmp_path, no_workers):
    settings = dataclasses.replace(study.site(tmp_path), fold="all", full_validation=False)

    def train(report):
        task, learner = RoundTask(0, "0", 0, 2, 2, 2, 2), NnUNetLearner(settings)
        train_to_the_end(learner, study.plans, study.fingerprint, task, study.tensors, report)
        return learner.model_folder()

    report = Reports()
    model = train(report)
    assert json.loads((model / "plans.json").read_text())["dataset_name"] == DATASET
    assert (model / "fold_all" / "checkpoint_final.pth").exists()
    assert {"preprocess", "train"} <= {p["step"] for p in report}

    again = Reports()  # killed and started again, it has nothing to train
    train(again)
    assert "train" not in {p["step"] for p in again}


def test_a_federation_of_one_equals_training_alone(study, tmp_path, no_workers):
    """One site, rounds of one epoch, weights sent back as they came: plain nnU-Net training."""
    results = []
    for name, n_epochs in (("rounds", 1), ("alone", 3)):
        folder = tmp_path / name
        folder.mkdir()
        learner = NnUNetLearner(study.site(folder))
        learner.prepare(study.plans, study.fingerprint, Reports())
        tensors = study.tensors
        for version in range(3 // n_epochs):
            task = RoundTask(version, f"{version}", version * n_epochs, n_epochs, 3, 2, 1)
            seeded(learner, task)
            tensors = learner.train(task, tensors, Reports()).tensors
        results.append(tensors)
        learner.close()
    for name in study.tensors:
        assert np.array_equal(results[0][name], results[1][name])


def seeded(learner, task):
    if task.version == 0:
        with learner._nnunet():
            learner._begun().open(task)
        np.random.seed(1)  # noqa: NPY002  the stream that nnU-Net's loaders draw from
        torch.manual_seed(1)
