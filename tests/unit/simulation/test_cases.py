"""Datasets of several sites as one: names, links, and what does not fit together."""

from __future__ import annotations

import json

import click
import pytest

from fedfs.cli.simulation import _dataset, _words
from fedfs.errors import UserError
from fedfs.simulation.cases import pool, read_cases
from fedfs.simulation.site_lists import SiteList

DATASET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
    "numTraining": 2,
}


def make(folder, cases=("001", "002"), **changes):
    dataset = {**DATASET, **changes}
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in cases:
        for channel in range(2):
            path = folder / "imagesTr" / f"{case}_{channel:04d}{dataset['file_ending']}"
            path.write_text(f"{folder.name} {case} {channel}")
        (folder / "labelsTr" / f"{case}{dataset['file_ending']}").write_text("labels")
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def test_cases_of_the_same_name_stay_apart(tmp_path):
    sources = {site: make(tmp_path / site) for site in ("north", "south")}
    for _ in range(2):
        target = pool(sources, tmp_path / "all")
    assert read_cases(target) == {
        "north": ("north-001", "north-002"),
        "south": ("south-001", "south-002"),
    }
    assert (target / "imagesTr" / "south-002_0001.nii.gz").read_text() == "south 002 1"
    assert json.loads((target / "dataset.json").read_text())["numTraining"] == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"background": 0, "organ": 2}}, "label 'organ' is 1"),
        ({"file_ending": ".nrrd"}, "file ending .nii.gz and .nrrd"),
        ({"channel_names": {"0": "T1", "1": "FLAIR"}}, "channel"),
    ],
)
def test_datasets_that_do_not_agree_are_refused(tmp_path, changes, said):
    sources = {"north": make(tmp_path / "north"), "south": make(tmp_path / "south", **changes)}
    with pytest.raises(UserError, match=f"north and south do not agree: .*{said}"):
        pool(sources, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_what_is_no_dataset_or_has_no_cases_is_named(tmp_path):
    with pytest.raises(UserError, match="is not an nnU-Net raw dataset"):
        pool({"north": tmp_path}, tmp_path / "all")
    with pytest.raises(UserError, match="There are no images"):
        pool({"north": make(tmp_path / "north", cases=())}, tmp_path / "all")


def test_the_option_takes_one_dataset_or_one_of_each_site(tmp_path):
    def from_option(*data, sites=None):
        return _dataset(data, sites, tmp_path / "out", print)

    one = make(tmp_path / "north")
    assert from_option(str(one)) == one
    assert from_option(str(tmp_path / "absent")) == tmp_path / "absent"
    assert from_option(f"north={one}") == tmp_path / "out" / "data"
    for data in ((str(one), f"south={one}"), (f"north={one}", f"north={one}"), ("north=",)):
        with pytest.raises(click.UsageError):
            from_option(*data)
    (tmp_path / "sites.csv").write_text("case,site\n001,a\n002,b\n")
    sites = SiteList(tmp_path / "sites.csv")
    assert set(read_cases(from_option(str(one), sites=sites))) == {"a", "b"}
    with pytest.raises(click.UsageError, match="--sites is for one dataset"):
        from_option(f"north={one}", sites=sites)


def test_options_of_other_commands_may_be_given_with_or_without_dashes():
    found = _words(("--weighting=uniform", "strategy=FedAvgM", "personal"))
    assert found == ["--weighting", "uniform", "--strategy", "FedAvgM", "--personal"]
