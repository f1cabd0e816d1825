"""The mean over sites is that of statsmodels and metafor; what cannot be weighed weighs nothing."""

from __future__ import annotations

import json
import math

import pytest

from fedfs.aggregation.random_effects import (
    Estimate,
    RandomEffects,
    cases_needed,
    error_of_interval,
    mean_interval,
    pool,
)
from support.statsmodels_effects import DIFFERENCES, ESTIMATES, GOLDEN

STATSMODELS = json.loads(GOLDEN.read_text())
T_975 = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 12: 2.1788}
"""Quantiles of Student's t, from a printed table."""


def estimates_of(name: str) -> list[Estimate]:
    return [Estimate(value, error) for value, error in ESTIMATES[name]]


@pytest.mark.parametrize("name", ESTIMATES)
def test_mean_and_heterogeneity_are_those_of_statsmodels(name):
    found, golden = pool(estimates_of(name)), STATSMODELS["pooled"][name]
    assert found.tau**2 == pytest.approx(golden["tau2"], rel=1e-6, abs=1e-12)
    assert found.mean == pytest.approx(golden["mean"], rel=1e-9)
    assert found.q == pytest.approx(golden["q"], rel=1e-9)
    assert found.q_p == pytest.approx(golden["q_p"], rel=1e-9)
    assert found.i2 == pytest.approx(max(0, golden["i2"]), rel=1e-9)
    error = max(golden["error"], golden["error_hksj"])  # as Knapp and Hartung advise
    assert found.high - found.mean == pytest.approx(error * T_975[found.n_sites - 1], rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean, rel=1e-9)


def test_the_vaccine_is_that_of_metafor():
    """``rma(yi, vi, method="PM", test="knha")`` of ``dat.bcg``, as its documentation prints it."""
    found = pool(estimates_of("BCG"))
    assert f"{found.tau**2:.4f}" == "0.3181"
    assert f"{found.mean:.4f}" == "-0.7150"
    assert f"{found.q:.4f}" == "152.2330"


def test_a_further_site_is_less_certain_than_the_mean_and_takes_three_to_know():
    found = pool(estimates_of("differences"))
    half = (found.next_high - found.next_low) / 2
    error = (found.high - found.mean) / T_975[3]
    assert half == pytest.approx(T_975[3] * math.hypot(error, found.tau), rel=1e-4)
    two = pool(estimates_of("two sites"))
    assert two.next_low is two.next_high is None
    assert two.low < two.mean < two.high


@pytest.mark.parametrize("error", [None, 0.0, 1e-9])
def test_a_site_that_cannot_be_weighed_is_left_out(error):
    alone = [Estimate(0.8, 0.01), Estimate(0.9, error)]
    assert pool(alone) == RandomEffects(1, 1, 0.8)
    assert pool([Estimate(0.9, error)]) is None
    assert pool([]) is None
    three = pool([*alone, Estimate(0.82, 0.01)])
    assert (three.n_sites, three.n_left_out) == (2, 1)
    assert 0.8 < three.mean < 0.82


def test_sites_that_agree_by_luck_get_no_interval_below_their_own_errors():
    found = pool(estimates_of("two sites that agree"))
    smallest = 1 / math.sqrt(1 / 0.010**2 + 1 / 0.012**2)
    assert found.tau == 0
    assert found.high - found.mean == pytest.approx(T_975[1] * smallest, rel=1e-4)


def test_no_size_of_a_site_outweighs_how_much_sites_differ():
    found = pool([Estimate(0.0, 1e-5), *(Estimate(0.8 + i / 100, 0.02) for i in range(4))])
    assert found.mean > 0.5
    assert found.low < 0.8 < found.high


def test_the_largest_numbers_of_a_message_give_finite_ones():
    found = pool([Estimate(1e10, 1e-6), Estimate(-1e10, 1e10), Estimate(0.0, 1e-6)])
    values = (found.mean, found.low, found.high, found.tau, found.q, found.q_p, found.next_high)
    assert all(map(math.isfinite, values))


def test_the_order_of_sites_does_not_matter():
    forth = pool(estimates_of("BCG"))
    back = pool(estimates_of("BCG")[::-1])
    assert (back.mean, back.tau) == pytest.approx((forth.mean, forth.tau), rel=1e-12)


@pytest.mark.parametrize(("n", "sd"), [(1, 0.1), (1, None), (5, None)])
def test_a_mean_without_a_spread_has_no_interval(n, sd):
    assert mean_interval(n, 0.8, sd) == (None, None)


def test_the_interval_of_a_mean_is_students():
    low, high = mean_interval(5, 0.8, 0.1)
    assert (low, high) == pytest.approx(
        (0.8 - T_975[4] * 0.1 / 5**0.5, 0.8 + T_975[4] * 0.1 / 5**0.5), rel=1e-4
    )
    assert mean_interval(3, 0.8, 0.0) == (0.8, 0.8)


def test_the_error_behind_an_interval_is_that_of_the_mean():
    sd, n = 0.05, 10
    half = 1.96 * sd * math.sqrt((n - 1) / n) / math.sqrt(n)  # as a bootstrap has it
    assert error_of_interval(0.1 - half, 0.1 + half, n) == pytest.approx(
        sd / math.sqrt(n), rel=1e-4
    )
    assert error_of_interval(None, None, 5) is None
    assert error_of_interval(0.1, 0.1, 1) is None


@pytest.mark.parametrize(("number", "planned"), [*enumerate(DIFFERENCES)])
def test_cases_needed_are_those_of_statsmodels(number, planned):
    exact = STATSMODELS["needed"][number]
    assert cases_needed(*planned) == pytest.approx(exact, abs=1.5)


@pytest.mark.parametrize("planned", [(0.0, 0.1), (0.01, 0.0), (0.01, None), (1e-9, 0.1)])
def test_what_cannot_be_planned_has_no_number_of_cases(planned):
    assert cases_needed(*planned) is None
