"""Statistics over the cases of a site: distribution, interval, paired difference, choice.

Rules:
 * Cases of one patient are not independent. The bootstrap draws patients, each with all of its
   cases (Field and Welsh, "Bootstrapping clustered data", 2007); Wilcoxon's test has one number
   for each patient, its mean difference.
 * Intervals are bias-corrected and accelerated (Efron and Tibshirani, "An introduction to the
   bootstrap", 1993, chapter 14). Of few patients they are too short: of normal numbers, one holds
   the mean in 85 % of samples of 5 patients, in 89 % of 10, in 93 % of 20 and in 94 % of 50 (4,000
   samples each). Of fewer than :data:`MIN_PATIENTS` there is none, and no test either.
 * Equal numbers and seeds give equal bits with the same scipy, in whatever order cases come.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fedfs.protocol.messages.scores import ChosenModel, PairedDifference, Summary

MIN_PATIENTS = 5
"""Fewest patients that an interval or a test is made of."""

CONFIDENCE = 0.95
N_RESAMPLES = 9999
_DIGITS = 12  # differences below are those of rounding, and would not count as ties
_MAX_BATCH = 10**6  # numbers in memory at a time

Interval = tuple[float, float] | tuple[None, None]
"""Both ends; None of fewer than :data:`MIN_PATIENTS`."""


def summary(values: Collection[float]) -> Summary:
    """Return how numbers are distributed.

    >>> summary([0.6, 0.8, 0.9, 0.9]).quartiles
    (0.75, 0.85, 0.9)

    Args:
        values: finite numbers, at least one.
    """
    ordered = sorted(values)
    quartiles = np.quantile(ordered, [0.25, 0.5, 0.75])
    return Summary(
        n=len(ordered),
        mean=_mean(ordered),
        sd=float(np.std(ordered, ddof=1)) if len(ordered) > 1 else None,
        quartiles=tuple(round(float(value), _DIGITS) for value in quartiles),
    )


def interval(values: Mapping[str, float], patients: Mapping[str, str], seed: int) -> Interval:
    """Return the 95 % interval of a mean over cases.

    >>> interval({"a": 0.6, "b": 0.8, "c": 0.9, "d": 0.7, "e": 0.5}, {}, seed=1)
    (0.58, 0.82)

    Args:
        values: case -> number; what is not finite counts as not there.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the random numbers.
    """
    clusters = _clusters(_finite(values), patients)
    if len(clusters) < MIN_PATIENTS:
        return None, None
    if len({total / n for total, n in clusters}) == 1:
        mean = clusters[0][0] / clusters[0][1]
        return mean, mean
    return _bootstrap(clusters, seed)


def paired_difference(
    one: Mapping[str, float], other: Mapping[str, float], patients: Mapping[str, str], seed: int
) -> PairedDifference | None:
    """Return one model minus another, on the cases in which both are defined; None without any.

    Args:
        one: case -> number.
        other: likewise.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the random numbers.
    """
    first, second = _finite(one), _finite(other)
    difference = {
        case: round(first[case] - second[case], _DIGITS) for case in first if case in second
    }
    if not difference:
        return None
    clusters = _clusters(difference, patients)
    low, high = interval(difference, patients, seed)
    return PairedDifference(
        n=len(difference),
        n_patients=len(clusters),
        mean=_mean(difference.values()),
        low=low,
        high=high,
        p=_wilcoxon([total / n for total, n in clusters]),
    )


def choose(
    by_variant: Mapping[str, Mapping[str, float]], patients: Mapping[str, str], seed: int
) -> ChosenModel | None:
    """Choose the model with the best mean, and estimate that mean on cases that did not choose.

    Of each half of the patients, the model counts that is best on the other half (cross-fitting).
    The interval takes these two choices as given.

    Args:
        by_variant: variant -> case -> Dice; of equally good ones the first is chosen.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the halves and of the interval.

    Returns:
        None of fewer than two variants, or of fewer than two patients whose cases all have scored.
    """
    finite = {variant: _finite(values) for variant, values in by_variant.items()}
    cases = sorted(set.intersection(*map(set, finite.values()))) if finite else []
    names = sorted({_patient(case, patients) for case in cases})
    if len(finite) < 2 or len(names) < 2:  # noqa: PLR2004  nothing to choose, or nothing to keep
        return None
    drawn = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in drawn[: len(names) // 2]}
    halves: tuple[list[str], list[str]] = ([], [])
    for case in cases:
        halves[_patient(case, patients) in first].append(case)
    kept = {
        case: finite[_best(finite, others)][case]
        for half, others in (halves, halves[::-1])
        for case in half
    }
    low, high = interval(kept, patients, seed)
    return ChosenModel(
        variant=_best(finite, cases),
        among=tuple(finite),
        n=len(cases),
        dice=_mean(kept.values()),
        low=low,
        high=high,
    )


def _best(by_variant: Mapping[str, Mapping[str, float]], cases: Sequence[str]) -> str:
    means = {name: _mean([values[c] for c in cases]) for name, values in by_variant.items()}
    return max(means, key=means.__getitem__)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {case: float(value) for case, value in values.items() if math.isfinite(value)}


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def _patient(case: str, patients: Mapping[str, str]) -> tuple[str, ...]:
    """Return a patient; one that has only this case is not mixed up with another of its name."""
    return ("patient", patients[case]) if case in patients else ("case", case)


def _clusters(values: Mapping[str, float], patients: Mapping[str, str]) -> list[tuple[float, int]]:
    """Return sum and number of the cases of each patient, in an order that no name decides."""
    found: dict[tuple[str, ...], list[float]] = {}
    for case, value in values.items():
        found.setdefault(_patient(case, patients), []).append(value)
    return sorted((math.fsum(of_patient), len(of_patient)) for of_patient in found.values())


def _bootstrap(clusters: Sequence[tuple[float, int]], seed: int) -> tuple[float, float]:
    from scipy import stats  # noqa: PLC0415  takes a second

    totals, counts = np.array(clusters, dtype=float).T

    def mean_of(drawn: Any, axis: int = -1) -> Any:
        return totals[drawn].sum(axis) / counts[drawn].sum(axis)

    found = stats.bootstrap(
        (np.arange(len(clusters)),),
        mean_of,
        n_resamples=N_RESAMPLES,
        batch=max(1, _MAX_BATCH // len(clusters)),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return round(float(found.low), _DIGITS), round(float(found.high), _DIGITS)


def _wilcoxon(differences: Sequence[float]) -> float | None:
    """Return the p of patients' differences; 1 where all are 0, None of too few patients."""
    rounded = [round(value, _DIGITS) for value in differences]
    if len(rounded) < MIN_PATIENTS:
        return None
    from scipy import stats  # noqa: PLC0415  takes a second

    unequal = [value for value in rounded if value]
    return float(stats.wilcoxon(unequal).pvalue) if unequal else 1.0
