"""Distributions, differences and a choice, out of the scores of a site's cases.

They are what a site publishes of its cases; the scores themselves stay there.

Rules:
 * Of fewer than :data:`MIN_CASES` nothing is said: mean and spread of two numbers are the numbers.
 * Quartiles take :data:`MIN_CASES_OF_QUARTILES`: with n, mean and spread they are five equations,
   from which the numbers of five cases could be computed.
 * Models are compared by metrics that say how good they are: not by volumes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fedfs.aggregation.intervals import choose, paired_difference, summary
from fedfs.learner import METRICS, CaseScores
from fedfs.protocol.messages.scores import ChosenModel, PairedDifference, Summaries, Summary

MIN_CASES = 3
MIN_CASES_OF_QUARTILES = 10

COMPARED = tuple(metric for metric in METRICS if not metric.endswith("volume_ml"))
"""Metrics in which models are compared."""

ByMetric = Mapping[str, Mapping[str, float]]
"""Metric -> case -> number."""


def over_classes(scores: CaseScores) -> dict[str, dict[str, float]]:
    """Return metric -> case -> mean over the classes in which it is defined.

    >>> over_classes({"a": {"organ": {"dice": 0.5}, "lesion": {"dice": 0.75}}})
    {'dice': {'a': 0.625}}
    """
    out: dict[str, dict[str, float]] = {}
    for case, classes in scores.items():
        for metric in METRICS:
            found = [metrics[metric] for metrics in classes.values() if metric in metrics]
            if found:
                out.setdefault(metric, {})[case] = sum(found) / len(found)
    return out


def distributions(scores: CaseScores) -> dict[str, Summary]:
    """Return metric -> distribution over cases of the mean over classes."""
    return _distributions(over_classes(scores))


def distributions_by_class(scores: CaseScores) -> dict[str, Summaries]:
    """Return class -> metric -> distribution over cases; without classes of too few cases."""
    names = dict.fromkeys(name for classes in scores.values() for name in classes)
    out: dict[str, Summaries] = {}
    for name in names:
        of_class = {c: {name: classes[name]} for c, classes in scores.items() if name in classes}
        found = _distributions(over_classes(of_class))
        if found:
            out[name] = found
    return out


def differences(
    one: CaseScores, other: CaseScores, patients: Mapping[str, str], seed: int
) -> dict[str, PairedDifference]:
    """Return metric -> one model minus another, on the cases of both; see :func:`over_classes`.

    Args:
        one: scores of one model.
        other: of the other.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the intervals.
    """
    first, second = over_classes(one), over_classes(other)
    found = {
        metric: paired_difference(first[metric], second[metric], patients, seed)
        for metric in COMPARED
        if metric in first and metric in second
    }
    return {
        metric: difference
        for metric, difference in found.items()
        if difference is not None and difference.n >= MIN_CASES
    }


def best(
    by_variant: Mapping[str, CaseScores], patients: Mapping[str, str], seed: int
) -> ChosenModel | None:
    """Return the model with the best mean Dice; see :func:`~.intervals.choose`.

    Args:
        by_variant: variant -> scores of its cases.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the halves and of the interval.
    """
    dice = {variant: over_classes(scores).get("dice", {}) for variant, scores in by_variant.items()}
    chosen = choose({variant: cases for variant, cases in dice.items() if cases}, patients, seed)
    return chosen if chosen is not None and chosen.n >= MIN_CASES else None


def rows(scores: CaseScores, cases: Sequence[str]) -> tuple[dict[str, float], ...]:
    """Return the scores of cases in this order, without their names: metric -> mean over classes.

    Args:
        scores: of all cases.
        cases: names of those to return.
    """
    by_metric = over_classes(scores)
    return tuple(
        {metric: found[case] for metric, found in by_metric.items() if case in found}
        for case in cases
    )


def _distributions(by_metric: ByMetric) -> dict[str, Summary]:
    found = {metric: _distribution(cases.values()) for metric, cases in by_metric.items()}
    return {metric: one for metric, one in found.items() if one is not None}


def _distribution(values: Collection[float]) -> Summary | None:
    if len(values) < MIN_CASES:
        return None
    made = summary(values)
    return made if len(values) >= MIN_CASES_OF_QUARTILES else replace(made, quartiles=())
