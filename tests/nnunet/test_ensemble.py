"""The mean of probabilities, with the real nnU-Net: as its own commands make it."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import SimpleITK
from life import in_this_process
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from synthetic import DATASET, Reports
from torch import device

from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.score.finish import FinalModel
from fedfs.nnunet.score.model_export import ExportRequest, export_model
from fedfs.nnunet.score.predict import ScoreRequests, predict_all
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.system.environment import HostSettings
from fedfs.tensors.canonical import write_safetensors

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("ensemble")]

HOST = HostSettings(device="cpu", num_processes=1)


@pytest.fixture(scope="module")
def members(study, tmp_path_factory):
    """Two models: safetensors files, and model folders; the plan of one has another spacing."""
    root, made = tmp_path_factory.mktemp("members"), {}
    for site, scale in {"east": 1.0, "north": 0.8}.items():
        plans = copy.deepcopy(study.plans)
        spacing = plans["configurations"]["2d"]["spacing"]
        plans["configurations"]["2d"]["spacing"] = [scale * mm for mm in spacing]
        path = root / f"{site}.safetensors"
        write_safetensors(path, {n: v * np.float32(scale) for n, v in study.tensors.items()})
        folder = export_model(
            ExportRequest(
                plans=plans, dataset_json=study.dataset_json, fingerprint={},
                trainer="nnUNetTrainer", configuration="2d", fold="0", tensors=str(path),
                output=str(root / site), dataset_name="Dataset800_Study", version=1, epochs=1,
            )
        )  # fmt: skip
        made[site] = (path, folder)
    return made


@pytest.fixture
def two_cases(study, tmp_path):
    """Folders of images and labels."""
    for kind, ending in (("images", "Tr/case_00[01]_0000.nii.gz"), ("labels", "Tr/case_00[01].*")):
        (tmp_path / kind).mkdir()
        for path in (study.paths.raw / DATASET).glob(f"{kind}{ending}"):
            shutil.copy(path, tmp_path / kind)
    return tmp_path


def test_the_prediction_is_that_of_nnunets_commands(members, two_cases):
    """Of ``nnUNetv2_predict --save_probabilities`` for each, and ``nnUNetv2_ensemble``."""
    output, folders = two_cases / "ours", [folder for _, folder in members.values()]
    model, *others = map(str, folders)
    request = ScoreRequest(
        model=model, fold="0", images=str(two_cases / "images"), others=tuple(others),
        labels=str(two_cases / "labels"), output=str(output), host=HOST,
    )  # fmt: skip
    (found,) = predict_all(ScoreRequests((request,)), Reports())
    assert found.n_cases == 2
    assert set(found.by_case) == {"case_000", "case_001"}
    assert not list(output.glob("*.npz"))
    theirs = []
    for number, folder in enumerate(folders):
        predictor = nnUNetPredictor(device=device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
        theirs.append(two_cases / f"member-{number}")
        theirs[-1].mkdir()
        predictor.predict_from_files_sequential(
            str(two_cases / "images"), str(theirs[-1]), save_probabilities=True
        )
    reader, labels = predictor.plans_manager.image_reader_writer_class(), predictor.label_manager
    for case in ("case_000", "case_001"):
        parts = [str(folder / f"{case}.npz") for folder in theirs]
        merge_files(parts, str(two_cases / case), ".nii.gz", reader, labels)
        one, other, alone = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{case}.nii.gz")))
            for folder in (output, two_cases, theirs[0])
        )
        assert np.array_equal(one, other)
        assert not np.array_equal(one, alone)  # or the test would not see an average


def test_a_site_scores_its_validation_cases_and_leaves_no_prediction(
    study, members, tmp_path, monkeypatch
):
    monkeypatch.setattr("fedfs.nnunet.score.cross_evaluation.run_isolated", in_this_process)
    monkeypatch.setattr(FinalModel, "validated_cases", lambda _: ["case_000"])
    learner = NnUNetLearner(study.site(tmp_path))
    learner.take_over({**study.plans, "dataset_name": DATASET})
    found = learner.score_ensemble({s: path for s, (path, _) in members.items()}, Reports())
    assert found.n_cases == 1
    assert json.dumps(sorted(found.classes)) == '["core", "shell"]'
    assert not list((tmp_path / "state").glob("other-model-*"))
