"""The table of an experiment: means over cases, folds and seeds."""

from __future__ import annotations

import pytest

from fedfs.errors import FedfsError
from fedfs.simulation.cases import Split
from fedfs.simulation.table import cell, tabulate
from fedfs.simulation.table_text import tables


def case(dice, hd95):
    return {"dice": dice, "hd95": hd95}


def test_a_cell_is_the_mean_over_cases_and_its_spread_over_repeats():
    repeats = [
        {"a": case(0.5, 2.0), "b": case(0.7, None)},
        {"a": case(0.7, 4.0), "b": case(0.9, 6.0)},
    ]
    found = cell(repeats)
    assert found.dice == pytest.approx(0.7)
    assert found.dice_sd == pytest.approx(0.2 / 2**0.5)
    assert found.hd95_mm == pytest.approx(4.0)
    assert found.n_cases == 2
    assert cell(repeats[:1]).dice_sd is None
    with pytest.raises(FedfsError, match="No test case"):
        cell([{"a": case(None, None)}])


SPLITS = (
    Split("east", ("e1", "e2"), ("e3",)),
    Split("north", ("n1",), ("n2",)),
    Split("far", (), ("f1",)),
)


def test_the_table_has_methods_by_sites_as_in_the_paper():
    one = {
        "east": {"e3": case(0.8, 1.0)},
        "north": {"n2": case(0.6, 3.0)},
        "far": {"f1": case(0.4, None)},
    }
    table, _ = tables(tabulate({"ffe": [one, one], "local": [one, one]}, SPLITS))
    assert table.heading == (
        "method",
        "east, n=1",
        "north, n=1",
        "mean, n=2",
        "far (external), n=1",
    )
    assert table.rows[0] == (
        "ffe", "0.800 ± 0.000, 1.0", "0.600 ± 0.000, 3.0", "0.700 ± 0.000, 2.0", "0.400 ± 0.000",
    )  # fmt: skip
    (table,) = tables(tabulate({"ffe": [one]}, SPLITS))
    assert table.rows[0][1] == "0.800, 1.0"


def repeat(by_case, shift=0.0):
    return {"east": {name: case(dice + shift, 1.0) for name, dice in by_case.items()}}


def test_a_difference_is_of_the_same_cases_with_their_means_over_seeds():
    local = {f"c{i}": 0.5 + i / 100 for i in range(8)}
    better = {name: dice + 0.1 + i / 1000 for i, (name, dice) in enumerate(local.items())}
    scores = {
        "local": [repeat(local), repeat(local, 0.02)],
        "ffe": [repeat(better), repeat(better, 0.04)],
    }
    splits = (Split("east", ("a",), tuple(local)),)
    result = tabulate(scores, splits)
    found = result.differences["ffe"]["east"]["dice"]
    assert "local" not in result.differences
    assert found.by_repeat == pytest.approx((0.1035, 0.1235))
    assert found.mean == pytest.approx(0.1135)
    assert found.sd == pytest.approx(0.02 / 2**0.5)
    assert found.low < found.mean < found.high
    assert found.high - found.low < 0.005  # the cases agree, whatever the seeds do
    assert found.p == pytest.approx(2 / 2**8)
    assert (found.n_cases, found.n_patients) == (8, 8)
    assert result.differences["ffe"]["mean"]["dice"].mean == pytest.approx(found.mean)
    patients = {name: f"p{int(name[1:]) // 2}" for name in local}
    for site in ("east", "mean"):
        one = tabulate(scores, splits, patients=patients).differences["ffe"][site]["dice"]
        assert (one.n_cases, one.n_patients) == (8, 4)
    other = tabulate(scores, splits, reference="ffe")
    assert other.differences["local"]["east"]["dice"].mean == pytest.approx(-found.mean)
