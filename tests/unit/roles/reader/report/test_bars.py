"""Axes have round ends, hold what is known, and put what is beyond at an end."""

from __future__ import annotations

import pytest

from fedfs.roles.reader.report.bars import Axis, axis


@pytest.mark.parametrize(
    ("values", "options", "ends"),
    [
        ([0.712, 0.86, None], {"low": 0, "high": 1}, (0.7, 0.86)),
        ([0.5, 1.0], {"low": 0, "high": 1}, (0.5, 1.0)),
        ([0.95, 1.3], {"low": 0, "high": 1}, (0.95, 1.0)),
        ([0.8], {"low": 0, "high": 1}, (0.799, 0.801)),
        ([], {"low": 0, "high": 1}, (0, 1)),
        ([None], {"low": -1, "high": 1, "zero": True}, (-0.001, 0.001)),
        ([0.011, 0.044], {"low": -1, "high": 1, "zero": True}, (0.0, 0.045)),
        ([-5.0, 7.0], {"low": -1, "high": 1, "zero": True}, (-1.0, 1.0)),
    ],
)
def test_an_axis_has_round_ends(values, options, ends):
    found = axis(values, **options)
    assert (found.low, found.high) == pytest.approx(ends)


def test_what_is_beyond_stands_at_the_end():
    places = [Axis(0.5, 1.0).place(value) for value in (0.2, 0.5, 0.75, 1.0, 1e10)]
    assert places == ["0.00%", "0.00%", "50.00%", "100.00%", "100.00%"]
