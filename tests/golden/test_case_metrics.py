"""Metrics of cases are those of other people's code: MONAI, MetricsReloaded and ISLES'22."""

from __future__ import annotations

import json

import pytest

from fedfs.nnunet.score.calibration import calibration_error
from fedfs.nnunet.score.distances import bounding_box, surface_distances
from fedfs.nnunet.score.lesions import count_lesions
from support.case_metrics import CASES, GOLDEN

THEIRS = json.loads(GOLDEN.read_text())["values"]


def ours(case):
    reference, prediction = case.masks()
    box = bounding_box(reference | prediction)
    reference, prediction = reference[box], prediction[box]
    distances = surface_distances(reference, prediction, case.spacing_mm)
    return {
        "hd95_mm": None if distances is None else distances.hd95_mm,
        "nsd": 0.0 if distances is None else distances.nsd(case.tolerance_mm),
        "f1": count_lesions(reference, prediction).f1,
        "calibration_error": calibration_error(reference, case.probabilities()[box]),
    }


def test_every_case_has_golden_numbers():
    assert set(THEIRS) == set(CASES)
    for metric, source in (("hd95_mm", "metrics_reloaded"), ("nsd", "monai"), ("f1", "isles22")):
        assert sum(metric in values[source] for values in THEIRS.values()) >= 7
    assert len({values["monai"]["calibration_error"] for values in THEIRS.values()}) == len(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("source", ["monai", "metrics_reloaded", "isles22"])
def test_metrics_are_theirs(name, source):
    found = ours(CASES[name])
    for metric, value in THEIRS[name][source].items():
        assert found[metric] == pytest.approx(value, rel=1e-5, abs=1e-6), metric
    if "hd95_mm" not in THEIRS[name]["monai"]:
        assert found["hd95_mm"] is None
