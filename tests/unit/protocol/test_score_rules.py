"""Sets of sites whose scores may be added, beside the sets whose totals are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.protocol import layout
from fedfs.protocol.score_rules import _largest, earlier_sets, too_small

SETS = st.lists(st.frozensets(st.sampled_from("abcdefghi"), min_size=3), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("sets", "is_too_small"),
    [
        (["abc"], False),
        (["ab"], True),
        (["abcd", "abcd"], False),
        (["abcd", "abc"], True),  # the difference is d
        (["abcdef", "abc"], False),  # the difference is d, e and f together
        (["abc", "def"], False),
        (["abcdef", "defghi", "abcghi"], False),
        (["abcdef", "cdefgh"], True),
        ([], False),
    ],
)
def test_sets_that_differ_in_few_sites_show_these(sets, is_too_small):
    assert too_small(sets, 3) == is_too_small


@given(SETS)
def test_no_combination_of_totals_is_about_few_sites(sets):
    """Sites of a group have the same weight in whatever is computed of totals."""
    sites = sorted(set().union(*sets))
    matrix = np.array([[site in one for site in sites] for one in sets], dtype=float)
    columns = [tuple(column) for column in matrix.T]
    smallest = min(columns.count(column) for column in columns)
    assert too_small(sets, 3) == (smallest < 3)


@pytest.mark.parametrize(
    ("sites", "before", "chosen"),
    [
        ("abcd", [], "abcd"),
        ("abcd", ["abcd"], "abcd"),
        ("abcd", ["abc"], "abc"),  # a site that came later is left out
        ("abcdef", ["abc"], "abcdef"),  # three that came later are not
        ("abc", ["abcd"], ""),
        ("ab", [], ""),
        ("", ["abc"], ""),
    ],
)
def test_the_aggregator_asks_for_as_many_sites_as_may_be(sites, before, chosen):
    assert "".join(_largest(set(sites), [frozenset(one) for one in before], 3)) == chosen


def test_earlier_sets_are_known_from_keys_of_evaluations():
    keys = [layout.evaluation(site, 0, "pseudo") for site in ("x", "y")]
    keys += [layout.evaluation("x", 1, "pseudo"), layout.evaluation("x", 1, "full")]
    keys += [layout.update("x", 0)]
    assert earlier_sets(keys) == {
        "pseudo": {frozenset({"x", "y"}), frozenset({"x"})},
        "full": {frozenset({"x"})},
    }
