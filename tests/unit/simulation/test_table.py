"""The table of an experiment: means over cases, folds and seeds."""

from __future__ import annotations

import pytest

from fedfs.cli.simulation import table
from fedfs.errors import FedfsError
from fedfs.simulation.cases import Split
from fedfs.simulation.table import cell, tabulate


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


def test_the_table_has_methods_by_sites_as_in_the_paper():
    splits = (
        Split("east", ("e1", "e2"), ("e3",)),
        Split("north", ("n1",), ("n2",)),
        Split("far", (), ("f1",)),
    )
    one = {
        "east": {"e3": case(0.8, 1.0)},
        "north": {"n2": case(0.6, 3.0)},
        "far": {"f1": case(0.4, None)},
    }
    result = tabulate({"ffe": [one], "local": [one, one]}, splits)
    heading, rows = table(result)
    assert heading == ("method", "east", "north", "mean", "far (external)")
    assert rows[0] == ("ffe", "0.800  1.0", "0.600  3.0", "0.700  2.0", "0.400")
    assert rows[1][1] == "0.800 ± 0.000  1.0"
