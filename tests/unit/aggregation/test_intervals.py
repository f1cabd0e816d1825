"""Intervals, paired differences and choices against numbers that can be counted by hand."""

from __future__ import annotations

import math

import pytest

from fedfs.aggregation.intervals import choose, interval, paired_difference, summary

NAN = math.nan
FULL = {"a": 0.5, "b": 0.9, "c": 0.4, "d": 0.5, "e": 0.6}


def test_a_summary_is_that_of_a_sample():
    found = summary([0.9, 0.6, 0.8, 0.9])
    assert (found.n, found.mean, found.quartiles) == (4, 0.8, (0.75, 0.85, 0.9))
    assert found.sd == pytest.approx(math.sqrt(0.06 / 3))
    assert (summary([0.3]).sd, summary([0.3]).quartiles) == (None, (0.3, 0.3, 0.3))


def test_numbers_that_do_not_vary_have_an_interval_without_width():
    assert interval(dict.fromkeys("abcde", 0.7), {}, 1) == (0.7, 0.7)


def test_few_patients_have_no_interval():
    assert interval(FULL, {}, 1) != (None, None)
    assert interval(FULL, {"a": "p", "b": "p"}, 1) == (None, None)
    assert interval({**FULL, "e": NAN}, {}, 1) == (None, None)
    assert interval({}, {}, 1) == (None, None)


def test_a_case_is_not_taken_for_a_patient_of_its_name():
    found = paired_difference({"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.0}, {"a": "b"}, 1)
    assert found is not None
    assert found.n_patients == 2


def test_differences_are_of_cases_in_which_both_are_defined():
    found = paired_difference(
        {"a": 0.5, "b": 0.8, "c": NAN, "d": 1.0}, {"a": 0.4, "b": 0.5, "c": 0.5, "e": 0.0}, {}, 7
    )
    assert found is not None
    assert (found.n, found.n_patients, found.mean) == (2, 2, pytest.approx(0.2))
    assert paired_difference({"a": 1.0}, {"b": 1.0}, {}, 7) is None
    assert paired_difference({"a": NAN}, {"a": 1.0}, {}, 7) is None


def test_no_difference_at_all_is_certain_of_nothing():
    found = paired_difference(FULL, FULL, {}, 7)
    assert found is not None
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_one_case_has_a_difference_and_nothing_more():
    found = paired_difference({"a": 0.9}, {"a": 0.4}, {}, 7)
    assert found is not None
    assert (found.n, found.mean, found.low, found.high, found.p) == (1, 0.5, None, None, None)


def test_differences_that_only_rounding_makes_unequal_are_ties():
    """0.3 - 0.2 and 0.2 - 0.1 are not the same number."""
    one = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.4, "e": 0.5}
    other = {"a": 0.2, "b": 0.1, "c": 0.2, "d": 0.3, "e": 0.4}
    tenfold = [{case: 10 * value for case, value in part.items()} for part in (one, other)]
    exact = paired_difference(*tenfold, {}, 1)
    found = paired_difference(one, other, {}, 1)
    assert found is not None
    assert exact is not None
    assert found.p == exact.p
    assert found.p is not None


def test_a_chosen_model_is_estimated_on_cases_that_did_not_choose_it():
    """Two models, each perfect on the half in which the other fails: the choice is always wrong."""
    left, right = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}
    found = choose({"full": left, "local": right}, {}, 1)
    assert found is not None
    assert (found.variant, found.among, found.n) == ("full", ("full", "local"), 2)
    assert (found.dice, found.low, found.high) == (0, None, None)


def test_a_model_that_is_always_better_is_chosen_and_keeps_its_mean():
    better = {case: value + 0.1 for case, value in FULL.items()}
    found = choose({"full": FULL, "personal": better}, {}, 1)
    assert found is not None
    assert (found.variant, found.dice) == ("personal", pytest.approx(0.68))
    assert found.low < 0.68 < found.high


def test_a_patient_is_on_one_side_of_the_choice():
    """With all cases of one patient on one side, what it has scored cannot choose for it."""
    left = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
    right = {case: 1 - value for case, value in left.items()}
    patients = {"a": "p", "b": "p", "c": "q", "d": "q"}
    for seed in range(5):
        found = choose({"full": left, "local": right}, patients, seed)
        assert found is not None
        assert found.dice == 0


def test_there_is_no_choice_of_one_model_or_of_one_patient():
    assert choose({"full": FULL}, {}, 1) is None
    assert choose({}, {}, 1) is None
    assert choose({"full": {"a": 1.0}, "local": {"a": 0.5}}, {}, 1) is None
    assert choose({"full": FULL, "local": FULL}, dict.fromkeys(FULL, "p"), 1) is None
    assert choose({"full": {"a": 1.0}, "local": {"b": 0.5}}, {}, 1) is None
