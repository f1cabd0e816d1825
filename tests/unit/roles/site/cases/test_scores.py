"""Scores of cases as a hospital reads them, and the files in which it takes them away."""

from __future__ import annotations

import csv
import json
import stat

import pytest

from fedfs.errors import UserError
from fedfs.roles.site.cases.scores import _rows, write_cases
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.score_files import ScoredCases

SCORED = ScoredCases(
    version=3,
    variant="full",
    by_case={
        "a": {"organ": {"dice": 0.9, "hd95_mm": 2.0}, "lesion": {"dice": 0.5}},
        "b": {"organ": {"dice": 0.6}, "lesion": {}},
        "none": {"organ": {}, "lesion": {}},
    },
)


@pytest.fixture
def rows():
    return _rows("2d-0", SCORED, {"a": "p"})


@pytest.fixture
def config(tmp_path):
    (tmp_path / "store").mkdir()
    return SiteConfig(str(tmp_path / "store"), "north", tmp_path / "home")


def test_the_worst_case_is_the_first_and_one_without_a_score_the_last(rows):
    assert [row.case for row in rows] == ["b", "a", "none"]
    assert [row.patient for row in rows] == ["", "p", ""]
    assert rows[1].metrics == {"dice": 0.7, "hd95_mm": 2.0}


def test_a_table_has_a_line_for_each_class_and_for_their_mean(rows, config, tmp_path):
    write_cases(rows, tmp_path / "scores.csv", config)
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["case"], line["class"]) for line in lines[3:6]] == [
        ("a", ""), ("a", "organ"), ("a", "lesion"),
    ]  # fmt: skip
    assert [line["dice"] for line in lines[:6]] == ["0.6", "0.6", "", "0.7", "0.9", "0.5"]
    assert (lines[0]["track"], lines[0]["version"], lines[0]["variant"]) == ("2d-0", "3", "full")
    assert stat.S_IMODE((tmp_path / "scores.csv").stat().st_mode) == 0o600


def test_a_json_file_has_all_of_it(rows, config, tmp_path):
    write_cases(rows, tmp_path / "scores.json", config)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert [row["case"] for row in found] == ["b", "a", "none"]
    assert found[1]["classes"] == SCORED.by_case["a"]


@pytest.mark.parametrize("name", ["scores.txt", "store/scores.csv"])
def test_it_is_written_neither_as_something_else_nor_into_the_store(rows, config, tmp_path, name):
    with pytest.raises(UserError, match=r"neither in \.csv|show names of cases to others"):
        write_cases(rows, tmp_path / name, config)
    assert not (tmp_path / name).exists()
