"""Evaluations of several models at several sites, as sites would publish them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedfs.learner import ClassScore
from fedfs.protocol import layout
from fedfs.protocol.messages import ChosenModel, EvaluationMessage, PairedDifference, Summary
from fedfs.protocol.state import StudyState

Cases = Sequence[float]
"""Dice of each case of a site, in the same order for all of its models."""

FOUR_SITES: Mapping[str, Mapping[str, Cases]] = {
    "east": {
        "local": [0.70, 0.74, 0.78, 0.82, 0.86, 0.79],
        "full": [0.73, 0.72, 0.80, 0.80, 0.88, 0.78],
        "personal": [0.75, 0.78, 0.82, 0.85, 0.90, 0.83],
    },
    "north": {
        "local": [0.80, 0.82, 0.84, 0.86, 0.88, 0.81],
        "full": [0.84, 0.87, 0.88, 0.91, 0.92, 0.86],
        "personal": [0.83, 0.88, 0.87, 0.92, 0.91, 0.87],
    },
    "south": {
        "local": [0.60, 0.66, 0.72, 0.71, 0.69, 0.75],
        "full": [0.66, 0.70, 0.79, 0.76, 0.74, 0.80],
        "personal": [0.67, 0.72, 0.78, 0.77, 0.76, 0.81],
    },
    "west": {
        "local": [0.90, 0.91, 0.92, 0.93, 0.90, 0.92],
        "full": [0.88, 0.88, 0.90, 0.90, 0.88, 0.89],
        "personal": [0.90, 0.92, 0.92, 0.93, 0.91, 0.92],
    },
}
"""Federated is better at north and south, worse at west, and at east nothing is shown."""


def summary(cases: Cases) -> Summary:
    """Return the distribution of some cases."""
    quartiles = (
        statistics.quantiles(cases, n=4, method="inclusive") if len(cases) > 1 else [*cases] * 3
    )
    sd = statistics.stdev(cases) if len(cases) > 1 else None
    return Summary(n=len(cases), mean=statistics.fmean(cases), sd=sd, quartiles=tuple(quartiles))


def paired(one: Cases, other: Cases) -> PairedDifference:
    """Return a paired difference with a normal interval, which takes no random numbers."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return PairedDifference(n=n, n_patients=n, mean=mean, low=None, high=None, p=None)
    half = 1.96 * statistics.stdev(differences) / math.sqrt(n)
    return PairedDifference(n=n, n_patients=n, mean=mean, low=mean - half, high=mean + half, p=0.03)


def evaluations(
    by_site: Mapping[str, Mapping[str, Cases]], *, version: int, study: str = "study"
) -> dict[tuple[str, int, str], EvaluationMessage]:
    """Return what sites publish of their models, in the order in which they score them."""
    out = {}
    for site, by_model in by_site.items():
        before: dict[str, Cases] = {}
        for model, cases in by_model.items():
            against = {name: {"dice": paired(cases, of)} for name, of in before.items()}
            before[model] = cases
            means = {name: statistics.fmean(of) for name, of in before.items()}
            best = max(means, key=means.__getitem__)
            chosen = ChosenModel(
                variant=best, among=tuple(before), n=len(cases), dice=means[best] - 0.005,
                low=means[best] - 0.03, high=min(1, means[best] + 0.02),
            )  # fmt: skip
            mean = statistics.fmean(cases)
            out[site, version, model] = EvaluationMessage(
                study=study, created_at="2026-01-31T12:00:00Z",
                key=layout.evaluation(site, version, model), site=site, version=version,
                variant=model, n_cases=len(cases), mean_dice=mean,
                classes={"organ": ClassScore(mean)}, loss=None, seconds=1.0,
                metrics={"dice": summary(cases), "hd95_mm": summary([3 * c for c in cases])},
                metrics_by_class={"organ": {"dice": summary(cases)}}, against=against,
                chosen=chosen if len(before) > 1 else None,
            )  # fmt: skip
    return out


def with_models(state: StudyState, by_site: Mapping[str, Mapping[str, Cases]]) -> StudyState:
    """Return a state in which sites have scored these models at the last version, and no others."""
    pseudo = {key: one for key, one in state.evaluations.items() if key[2] == "pseudo"}
    scored = evaluations(by_site, version=state.newest, study=state.charter.study)
    return replace(state, evaluations={**pseudo, **scored})
