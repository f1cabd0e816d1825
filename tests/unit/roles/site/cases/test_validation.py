"""Validation cases are found where fedfs has finished models, and their page is for few eyes."""

from __future__ import annotations

import json
import stat
from types import SimpleNamespace

import pytest

from fedfs.errors import DatasetError, StudyError, UserError
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.roles.site.cases import validation
from fedfs.roles.site.config import SiteConfig
from fedfs.store import open_store
from support.shown_cases import dataset_json, write_cases

FOLDS = ("2d-0", "2d-1")


@pytest.fixture
def site(tmp_path):
    """A site with two finished folds; of the second, nobody has trained a local model."""
    raw, results = tmp_path / "raw" / "Dataset042_Organ", tmp_path / "results"
    paths = NnUNetPaths(tmp_path / "raw", tmp_path / "preprocessed", results)
    models = {"local": [2, 2], "federated": [1, 2], "personal": [0, 1]}
    views = write_cases(tmp_path / "made", models, dataset_json())
    for source, name in (("images", "imagesTr"), ("labels", "labelsTr")):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / source).rename(raw / name)
    (raw / "dataset.json").write_text(json.dumps(dataset_json()))
    summary = json.loads((views[0].predictions["local"].parent / "summary.json").read_text())
    for fold, track in enumerate(FOLDS):
        for model in list(models)[fold:]:
            folder = tmp_path / "made" / f"{model}-{fold}" / "validation"
            folder.mkdir(parents=True)
            cases = [summary["metric_per_case"][fold]]
            (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
            state = f"{model}-training" if model != "federated" else "training"
            record = results / "fedfs" / "study" / "north" / "tracks" / track / state
            record.mkdir(parents=True)
            content = {
                "checkpoint": str(folder.with_name("checkpoint_final.pth")),
                "result": {"n_cases": 1},
            }
            (record / "finished.json").write_text(json.dumps(content))
    return SimpleNamespace(
        paths=paths,
        dataset=RawDataset.listed(paths, "Dataset042_Organ"),
        config=SiteConfig("/mnt/share/organ", "north", tmp_path / "home"),
    )


def found(site):
    charters = {
        name: SimpleNamespace(study="study", track=SimpleNamespace(name=name)) for name in FOLDS
    }
    return {
        name: validation._validations(site.paths, charter, "north")
        for name, charter in charters.items()
    }


def test_the_models_of_a_site_are_those_that_it_finished(site):
    of_tracks = found(site)
    assert list(of_tracks["2d-0"]) == ["local", "federated", "personal"]
    assert list(of_tracks["2d-1"]) == ["federated", "personal"]


def test_folds_are_shown_together_with_the_models_that_all_of_them_have(site):
    views, is_scored = validation._views(found(site), site.dataset, site.config)
    assert [view.name for view in views] == ["case_0", "case_1"]
    assert [list(view.predictions) for view in views] == [["federated", "personal"]] * 2
    assert [path.parent.parent.name for path in views[1].predictions.values()] == [
        "federated-1", "personal-1"
    ]  # fmt: skip
    assert [image.name for image in views[1].images] == ["case_1_0000.nii.gz", "case_1_0001.nii.gz"]
    assert is_scored


def test_a_study_that_is_not_finished_says_which_command_finishes_it(site):
    with pytest.raises(StudyError, match="2d-2 has not been validated") as caught:
        validation._views({"2d-2": {}}, site.dataset, site.config)
    assert "fedfs site run /mnt/share/organ --site north" in caught.value.hint


def test_a_case_that_the_dataset_has_lost_is_named(site):
    with pytest.raises(DatasetError, match="does not hold the case case_1"):
        validation._views(found(site), site.dataset.without(["case_1"]), site.config)


def test_the_page_is_for_its_user_alone(tmp_path):
    path = tmp_path / "cases.html"
    path.write_text("old")
    path.chmod(0o644)
    validation.write_page(path, "<p>new")
    assert path.read_text() == "<p>new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["cases.html", "sites/north/cases.html", "../link/cases.html"])
def test_it_is_not_written_into_the_store(tmp_path, name):
    folder = tmp_path / "store"
    (folder / "sites" / "north").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="lies in the study's store"):
        validation.check_outside(folder / name, open_store(str(folder)))
    validation.check_outside(tmp_path / "cases.html", open_store(str(folder)))


def test_a_channel_has_a_name_and_a_number():
    content = dataset_json()
    assert [validation.channel_number(content, one) for one in (None, "T2", "1", "0")] == [
        0,
        1,
        1,
        0,
    ]
    with pytest.raises(UserError, match="no channel 'T3'") as caught:
        validation.channel_number(content, "T3")
    assert "0 T1, 1 T2" in caught.value.hint
