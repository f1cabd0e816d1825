"""Metrics of cases as they are read from nnU-Net's files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fedfs.learner import METRICS
from fedfs.nnunet.score.case_metrics import CASE_SCORES, CaseMetrics, delete_probabilities

SPACING = (2.0, 1.0, 1.0)
DATASET = {
    "labels": {"background": 0, "organ": 1, "lesion": 2},
    "channel_names": {"0": "CT"},
    "file_ending": ".nii.gz",
}


class Reader:
    """Gives segmentations by the name of a file."""

    def __init__(self, segmentations, spacing=SPACING):
        self.segmentations, self.spacing = segmentations, spacing

    def read_seg(self, name):
        folder, file = name.split("/")[-2:]
        return self.segmentations[folder, file.partition(".")[0]][None], {"spacing": self.spacing}


class NaturalImage2DIO(Reader):
    """Named as nnU-Net's reader of images without a scale."""


def cube(value=1, shape=(8, 12, 12), at=2, n=4):
    out = np.zeros(shape, int)
    out[tuple(slice(at, at + n) if length > 1 else 0 for length in shape)] = value
    return out


def write(folder, segmentations, dice=0.5):
    """A summary of nnU-Net's, with the cases of the folder ``predicted``."""
    metrics = {"1": {"Dice": dice}, "2": {"Dice": math.nan}}
    names = [case for which, case in segmentations if which == "predicted"]
    cases = [
        {
            "reference_file": f"{folder}/labels/{name}.nii.gz",
            "prediction_file": f"{folder}/predicted/{name}.nii.gz",
            "metrics": metrics,
        }
        for name in names
    ]
    content = {"metric_per_case": cases, "mean": metrics}
    (folder / "predicted").mkdir()
    (folder / "predicted" / "summary.json").write_text(json.dumps(content))
    return folder / "predicted"


def score(tmp_path, reader, *, dataset=DATASET, **options):
    folder = write(tmp_path, reader.segmentations)
    metrics = CaseMetrics(dataset_json=dataset, reader=reader, tolerance_mm=1.0, **options)
    return metrics.of_folder(folder), folder


def test_a_case_has_its_metrics_by_class(tmp_path):
    files = {("labels", "a"): cube(), ("predicted", "a"): np.roll(cube(), 1, axis=2)}
    seen = []
    folder = write(tmp_path, files)
    metrics = CaseMetrics(dataset_json=DATASET, reader=Reader(files), tolerance_mm=1.0)
    result = metrics.of_folder(folder, seen.append)
    organ = result.by_case["a"]["organ"]
    assert organ == {
        "dice": 0.5, "nsd": 1.0, "hd95_mm": 1.0, "f1": 1.0, "sensitivity": 1.0,
        "false_positives": 0.0, "volume_ml": pytest.approx(0.128),
        "reference_volume_ml": pytest.approx(0.128),
    }  # fmt: skip
    assert set(organ) == set(METRICS) - {"calibration_error"}
    assert result.by_case["a"]["lesion"] == {
        "false_positives": 0.0, "volume_ml": 0.0, "reference_volume_ml": 0.0,
    }  # fmt: skip
    assert (result.n_cases, result.nsd_tolerance_mm) == (1, 1.0)
    assert (result.classes["organ"].dice, result.classes["organ"].hd95_mm) == (0.5, 1.0)
    assert (result.classes["lesion"].dice, result.classes["lesion"].hd95_mm) == (None, None)
    assert json.loads((folder / CASE_SCORES).read_text()) == result.by_case
    assert [progress.done for progress in seen] == [1]


def test_what_is_missed_is_near_nothing(tmp_path):
    files = {("labels", "a"): cube(), ("predicted", "a"): cube(0)}
    result, _ = score(tmp_path, Reader(files))
    organ = result.by_case["a"]["organ"]
    assert (organ["nsd"], organ["sensitivity"], organ["f1"]) == (0.0, 0.0, 0.0)
    assert "hd95_mm" not in organ


def test_regions_are_unions_of_labels(tmp_path):
    dataset = {
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }
    files = {("labels", "a"): cube(1) + cube(1, at=3, n=1), ("predicted", "a"): cube(1)}
    folder = write(tmp_path, files)
    summary = json.loads((folder / "summary.json").read_text())
    for part in (summary["metric_per_case"][0]["metrics"], summary["mean"]):
        part["(1, 2)"], part["(2,)"] = part.pop("1"), part.pop("2")
    (folder / "summary.json").write_text(json.dumps(summary))
    metrics = CaseMetrics(dataset_json=dataset, reader=Reader(files), tolerance_mm=1.0)
    found = metrics.of_folder(folder).by_case["a"]
    assert (found["whole"]["f1"], found["core"]["f1"]) == (1.0, 0.0)


def test_voxels_to_ignore_are_in_no_class(tmp_path):
    reference = cube()
    reference[:, :, 8:] = 3
    prediction = cube() + cube(at=9, n=2)
    dataset = {**DATASET, "labels": {**DATASET["labels"], "ignore": 3}}
    files = {("labels", "a"): reference, ("predicted", "a"): prediction}
    result, _ = score(tmp_path, Reader(files), dataset=dataset)
    organ = result.by_case["a"]["organ"]
    assert (organ["false_positives"], organ["hd95_mm"]) == (0.0, 0.0)
    assert organ["volume_ml"] == organ["reference_volume_ml"]


def test_an_image_in_two_dimensions_has_distances_but_no_volume(tmp_path):
    flat = cube(shape=(1, 12, 12), n=6)
    files = {("labels", "a"): flat, ("predicted", "a"): np.roll(flat, 1, axis=2)}
    result, _ = score(tmp_path, Reader(files, spacing=(999.0, 1.0, 1.0)))
    organ = result.by_case["a"]["organ"]
    assert organ["hd95_mm"] == 1.0
    assert "volume_ml" not in organ


def test_files_without_a_scale_have_neither(tmp_path):
    flat = cube(shape=(1, 12, 12))
    files = {("labels", "a"): flat, ("predicted", "a"): flat}
    result, _ = score(tmp_path, NaturalImage2DIO(files))
    assert set(result.by_case["a"]["organ"]) == {"dice", "f1", "sensitivity", "false_positives"}


def test_probabilities_beside_a_prediction_are_calibrated_and_deleted(tmp_path):
    files = {("labels", "a"): cube(), ("predicted", "a"): np.roll(cube(), 1, axis=2)}
    folder = write(tmp_path, files)
    p = np.zeros((3, 8, 12, 12), np.float32)
    p[1] = np.where(cube() == 1, 0.9, 0.2)
    np.savez_compressed(folder / "a.npz", probabilities=p)
    (folder / "a.pkl").touch()
    metrics = CaseMetrics(
        dataset_json=DATASET, reader=Reader(files), tolerance_mm=1.0, with_calibration=True
    )
    found = metrics.of_folder(folder).by_case["a"]
    # The box has 4 x 4 x 5 voxels, of which 64 are organ.
    assert found["organ"]["calibration_error"] == pytest.approx((64 * 0.1 + 16 * 0.2) / 80)
    assert "calibration_error" not in found["lesion"]
    delete_probabilities(folder)
    assert not [*folder.glob("*.npz"), *folder.glob("*.pkl")]
