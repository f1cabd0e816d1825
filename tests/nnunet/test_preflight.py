"""``fedfs doctor -d DATASET`` before a site joins: real images, and nothing is published."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from synthetic import DATASET, LABELS, write_dataset

from fedfs.nnunet.allowed.classes import usual_gpu_memory_gb
from fedfs.roles.doctor.preflight import check_gpu_memory, check_new_dataset
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM
from support.federation import Federation


@pytest.fixture
def charter(tmp_path):
    content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz"}
    return Federation(tmp_path / "hosts", dataset_json=content, minimum_cases=3).charter


@pytest.fixture
def folder(paths, monkeypatch):
    for name, value in paths.variables().items():
        monkeypatch.setenv(name, value)
    return write_dataset(paths.raw, 4, shape=(4, 8, 8))


def check(charter, name=DATASET, joined=None):
    steps = []
    findings = list(check_new_dataset(name, charter, 1, steps.append, joined=joined))
    return [(one.subject, one.level, one.text) for one in findings], steps


def test_a_dataset_that_can_be_used_is_told_so(folder, charter):
    (dataset, cases, space), steps = check(charter)
    assert dataset[1:] == (OK, f"{DATASET} has the channels and labels of the charter")
    assert cases[1] == OK
    assert cases[2].startswith("4 of 4 cases can be used, read in ")
    assert cases[2].endswith("the study asks for 3")
    assert space[:2] == ("space", OK)
    assert [step.done for step in steps] == [1, 2, 3, 4]


def test_every_case_that_cannot_be_used_is_named_and_too_few_are_a_problem(folder, charter):
    whole = (folder / "imagesTr" / "case_000_0000.nii.gz").read_bytes()
    (folder / "imagesTr" / "case_000_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "labelsTr" / "case_002.nii.gz").unlink()
    found, _ = check(charter)
    assert found[1] == ("case", PROBLEM, "Case case_002 lacks case_002.nii.gz.")
    assert "Case case_000: case_000_0000.nii.gz is damaged or ends early" in found[2][2]
    assert found[3] == ("cases", PROBLEM, "2 of 4 cases can be used; the study asks for 3")


def test_labels_and_endings_that_disagree_are_told(folder, charter, paths):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {**LABELS, "core": 3}}))
    found, _ = check(charter)
    text = f"{DATASET}: label 'core' is 2 in the charter and 3 in the dataset"
    assert found[0] == ("dataset", PROBLEM, text)
    write_dataset(paths.raw, 3, name="Dataset002_Other", shape=(4, 8, 8), file_ending=".nrrd")
    found, _ = check(charter, "2", joined=DATASET)
    assert found[0][:2] == ("dataset", NOTE)
    assert ("file ending", NOTE) in [one[:2] for one in found]
    ((subject, level, text),), _ = check(charter, "Dataset077_None")
    assert (subject, level) == ("dataset", PROBLEM)
    assert "There is no dataset Dataset077_None" in text


def test_the_memory_that_planners_plan_for_is_known():
    planners = ("ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL")
    assert [usual_gpu_memory_gb(name) for name in planners] == [8.0, 8.0, 24.0]


@pytest.mark.parametrize(("gb", "level"), [(6, PROBLEM), (7.6, OK), (80, OK)])
def test_a_gpu_smaller_than_the_plan_is_a_problem(charter, monkeypatch, gb, level):
    """This machine has none: its size is what a GPU would say."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    size = SimpleNamespace(total_memory=gb * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: size)
    (found,) = check_gpu_memory(charter)
    assert (found.subject, found.level) == ("GPU memory", level)
    assert f"{gb:.0f} GB; the study's ExperimentPlanner plans for 8 GB" in found.text
