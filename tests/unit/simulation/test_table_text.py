"""Tables of an experiment in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io

import pytest

from fedfs.simulation.cases import Split
from fedfs.simulation.table import tabulate
from fedfs.simulation.table_text import comma_separated, latex, markdown, write_tables

CASES = {f"c{i}": 0.5 + i / 100 for i in range(8)}


def repeat(shift):
    return {"e_1": {name: {"dice": dice + shift, "hd95": 2.0} for name, dice in CASES.items()}}


@pytest.fixture(scope="module")
def result():
    scores = {"local": [repeat(0.0), repeat(0.1)], "local-equal": [repeat(0.2), repeat(0.2)]}
    return tabulate(scores, (Split("e_1", ("a",), tuple(CASES)),))


def test_markdown_has_both_tables(result):
    lines = markdown(result).splitlines()
    assert lines[2:6] == [
        "| method | e_1, n=8 | mean, n=8 |",
        "| --- | ---: | ---: |",
        "| local | 0.585 ± 0.071, 2.0 | 0.585 ± 0.071, 2.0 |",
        "| local-equal | 0.735 ± 0.000, 2.0 | 0.735 ± 0.000, 2.0 |",
    ]
    same = "+0.150 (+0.150 to +0.150), p 0.008; SD 0.071"
    assert lines[-1] == f"| local-equal | {same} | {same} |"
    assert "95 % interval" in lines[7]


def test_latex_has_what_booktabs_needs_and_no_bare_character(result):
    text = latex(result)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"local & 0.585 $\pm$ 0.071, 2.0 & 0.585 $\pm$ 0.071, 2.0 \\" in text
    assert r"e\_1, n=8" in text
    assert r"95 \% interval" in text


def test_csv_has_every_number_of_every_site(result):
    rows = list(csv.DictReader(io.StringIO(comma_separated(result))))
    assert [(row["method"], row["site"]) for row in rows] == [
        ("local", "e_1"), ("local", "mean"), ("local-equal", "e_1"), ("local-equal", "mean"),
    ]  # fmt: skip
    assert rows[0]["reference"] == rows[0]["dice_difference_mean"] == ""
    assert float(rows[2]["dice"]) == pytest.approx(0.735)
    assert float(rows[2]["dice_low"]) < 0.735 < float(rows[2]["dice_high"])
    assert float(rows[2]["dice_difference_mean"]) == pytest.approx(0.15)
    assert float(rows[2]["hd95_difference_mean"]) == 0
    assert rows[2]["n_repeats"] == "2"


def test_the_files_are_those_texts(result, tmp_path):
    found = {path.name: path.read_text() for path in write_tables(tmp_path, result)}
    assert found == {
        "table.md": markdown(result),
        "table.csv": comma_separated(result),
        "table.tex": latex(result),
    }
