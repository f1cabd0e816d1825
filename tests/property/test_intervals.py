"""Laws of the statistics over cases."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy import stats

from fedfs.aggregation import intervals
from fedfs.aggregation.intervals import choose, interval, paired_difference

numbers = st.dictionaries(
    st.text("abcdefghij", min_size=1, max_size=3), st.floats(-1e3, 1e3), min_size=3, max_size=9
)
patients = st.dictionaries(
    st.text("abcdefghij", min_size=1, max_size=3), st.sampled_from("pqr"), max_size=9
)
quick = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "N_RESAMPLES", 199)


def shuffled(values, seed):
    items = list(values.items())
    random.Random(seed).shuffle(items)
    return dict(items)


def sample(rng, n):
    return {str(i): float(x) for i, x in enumerate(rng.gamma(2.0, size=n))}  # mean 2, skewed


@quick
@given(numbers, patients, st.integers(0, 2**31))
def test_equal_numbers_and_seeds_give_equal_bits_in_any_order(values, of_patients, seed):
    assert interval(values, of_patients, seed) == interval(
        shuffled(values, seed), shuffled(of_patients, seed), seed
    )
    other = {case: value / 2 for case, value in values.items()}
    for compute in (
        lambda v, o: paired_difference(v, o, of_patients, seed),
        lambda v, o: choose({"full": v, "local": o}, of_patients, seed),
    ):
        assert compute(values, other) == compute(shuffled(values, 1), shuffled(other, 2))


@quick
@given(numbers, patients, st.integers(0, 2**31))
def test_an_interval_lies_within_the_numbers(values, of_patients, seed):
    low, high = interval(values, of_patients, seed)
    if low is None or high is None:
        event("no interval")
        return
    slack = 1e-9 * max(map(abs, values.values()))
    assert min(values.values()) - slack <= low <= high <= max(values.values()) + slack


@quick
@given(numbers, patients, st.integers(0, 2**31))
def test_a_difference_turned_round_has_the_other_sign(values, of_patients, seed):
    other = {case: value**2 / 1e3 for case, value in values.items()}
    one = paired_difference(values, other, of_patients, seed)
    back = paired_difference(other, values, of_patients, seed)
    assert one is not None
    assert back is not None
    assert one.mean == -back.mean
    assert one.p == pytest.approx(back.p)


def test_an_interval_is_scipys():
    values = sample(np.random.default_rng(3), 30)
    theirs = stats.bootstrap(
        (sorted(values.values()),), np.mean, n_resamples=199, rng=np.random.default_rng(5)
    ).confidence_interval
    assert interval(values, {}, 5) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_p_is_scipys():
    rng = np.random.default_rng(4)
    one, other = sample(rng, 25), sample(rng, 25)
    found = paired_difference(one, other, {}, 5)
    assert found is not None
    theirs = stats.wilcoxon(list(one.values()), list(other.values()))
    assert found.p == pytest.approx(theirs.pvalue)


def test_intervals_hold_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [interval(sample(rng, 40), {}, seed) for seed in range(300)]
    hits = sum(low <= 2.0 <= high for low, high in found if low is not None and high is not None)
    assert 0.88 < hits / len(found) < 0.98


def test_cases_of_the_same_patients_widen_an_interval():
    """Four cases of each of ten patients, all alike, say as much as ten cases."""
    rng = np.random.default_rng(1)
    of_patient = rng.normal(size=10)
    values = {f"{p}-{i}": float(of_patient[p]) for p in range(10) for i in range(4)}
    whose = {case: case.partition("-")[0] for case in values}

    def width(of_patients):
        low, high = interval(values, of_patients, 1)
        assert low is not None
        assert high is not None
        return high - low

    assert width(whose) > 1.2 * width({})
    alone = interval(dict(zip("abcdefghij", map(float, of_patient), strict=True)), {}, 1)
    assert interval(values, whose, 1) == pytest.approx(alone)


def test_choosing_among_models_that_only_noise_tells_apart_gains_nothing():
    """The best of ten has a mean above theirs; its estimate has not."""
    rng, chosen, best = np.random.default_rng(2), [], []
    for seed in range(100):
        names = [f"of-{i}" for i in range(10)]
        scores = {name: dict(enumerate(rng.uniform(size=20))) for name in names}
        by_case = {n: {str(c): float(v) for c, v in s.items()} for n, s in scores.items()}
        found = choose(by_case, {}, seed)
        assert found is not None
        chosen.append(found.dice)
        best.append(float(np.mean(list(by_case[found.variant].values()))))
    assert np.mean(best) > 0.57
    assert abs(np.mean(chosen) - 0.5) < 0.02
