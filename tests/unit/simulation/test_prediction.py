"""Predictions of test cases: by which models, and in how many processes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from fedfs.simulation.arms import Run
from fedfs.simulation.cases import Split
from fedfs.simulation.cluster import LOCAL, SLURM
from fedfs.simulation.machine import Machine
from fedfs.simulation.prediction import Predictor

SPLITS = (Split("east", ("a",), ("b",)), Split("north", ("c",), ("d",)), Split("far", (), ("e",)))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in "bde":
        (folder / "imagesTr" / f"{case}_0000.nii.gz").touch()
        (folder / "labelsTr" / f"{case}.nii.gz").touch()
    content = {"channel_names": {"0": "T1"}, "labels": {"a": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def sets(data, arm, models):
    run = Run(arm, "2d", "0", 1, data.parent)
    predictor = Predictor(data, SPLITS, data.parent / "test", Machine(), print)
    made = predictor._sets(run, {site: data.parent / name for site, name in models.items()})
    return {
        site: [tuple(path.name for path in (one.model, *one.others)) for one in of_site]
        for site, of_site in made.items()
    }


def test_each_site_has_its_model_and_the_external_one_all(data):
    assert sets(data, "local", {"east": "E", "north": "N"}) == {
        "east": [("E",)],
        "north": [("N",)],
        "far": [("E",), ("N",)],
    }
    assert sets(data, "ffe", {"": "G"}) == {site: [("G",)] for site in ("east", "north", "far")}
    ensemble = sets(data, "ensemble", {"east": "E", "north": "N"})
    assert ensemble == {site: [("E", "N")] for site in ("east", "north", "far")}


@pytest.mark.parametrize(("kind", "n_tasks"), [(None, 1), (LOCAL, 1), (SLURM, 2)])
def test_one_machine_has_one_process_and_a_cluster_one_for_each_model(data, kind, n_tasks):
    machine = Machine(cluster=SimpleNamespace(kind=kind, n_cpus=1) if kind else None)
    predictor = Predictor(data, SPLITS, data.parent / "test", machine, print)
    run = Run("local", "2d", "0", 1, data.parent)
    made = predictor._sets(run, {site: data.parent / site for site in ("east", "north")})
    tasks = predictor._tasks([one for of in made.values() for one in of], "0", data.parent / "s")
    assert len(tasks) == n_tasks
    assert sum(len(task.sets) for task in tasks) == 4
