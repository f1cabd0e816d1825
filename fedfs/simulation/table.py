"""Numbers of an experiment: arms by sites, and each arm's paired difference to a reference arm.

Rules:
 * A cell is a mean over cases, then over folds and seeds; its spread is that over folds and seeds.
 * A difference is of the same cases. Each case counts with its mean over folds and seeds, so that
   the interval is about other cases of these sites, with the models of these seeds; the spread over
   folds and seeds stands beside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType

from fedfs.aggregation import intervals
from fedfs.errors import FedfsError
from fedfs.nnunet.score.case_metrics import CASE_SCORES
from fedfs.simulation.cases import Split

Scores = Mapping[str, Mapping[str, float | None]]
"""Test case -> ``dice`` and ``hd95`` (mm); None where it is not defined."""

METRICS = ("dice", "hd95")
ALL_SITES = "mean"
"""The column of all test cases of the sites that trained."""
_SEED = 1  # of the intervals


@dataclass(frozen=True)
class Cell:
    """A method at a site: mean over test cases, and its spread over folds and seeds.

    Attributes:
        dice_low, dice_high: 95 % interval over cases of the mean over folds and seeds; None of
            fewer than two patients.
    """

    dice: float
    dice_sd: float | None
    hd95_mm: float | None
    n_cases: int
    dice_low: float | None = None
    dice_high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A method minus the reference at a site.

    Attributes:
        mean: over cases, of their means over folds and seeds.
        low, high: 95 % interval over patients, see :mod:`fedfs.aggregation.intervals`.
        p: of Wilcoxon's signed-rank test over patients, two-sided.
        sd: standard deviation over folds and seeds of the mean difference; None of one.
        by_repeat: mean difference of each fold and seed, in their order.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n_cases: int
    n_patients: int
    sd: float | None
    by_repeat: tuple[float | None, ...]


@dataclass(frozen=True)
class ExperimentResult:
    """Results of an experiment.

    Attributes:
        cells: arm, with several configurations ``arm, configuration`` -> site (the external one
            too, and ``mean`` of those that trained) -> numbers.
        n_training_cases: by site.
        external: the site that did not train.
        reference: the arm that others are compared with.
        n_repeats: folds times seeds.
        differences: arm, likewise -> site -> ``dice`` or ``hd95`` -> difference to the reference.
    """

    cells: Mapping[str, Mapping[str, Cell]]
    n_training_cases: Mapping[str, int]
    external: str | None
    reference: str = "local"
    n_repeats: int = 1
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def sites(self) -> tuple[str, ...]:
        """Columns of a table."""
        return (*self.n_training_cases, ALL_SITES, *([self.external] if self.external else []))


def tabulate(
    scores: Mapping[str, Sequence[Mapping[str, Scores]]],
    splits: Sequence[Split],
    *,
    reference: str = "local",
    patients: Mapping[str, str] = MappingProxyType({}),
) -> ExperimentResult:
    """Return the results of an experiment.

    Args:
        scores: row of the table -> for each fold and seed, site -> scores.
        splits: of all sites; the one without training cases is external.
        reference: arm that others are compared with.
        patients: case -> patient; a case that is not named is a patient of its own.

    Raises:
        FedfsError: no test case holds a class of the study.
    """
    counts = {split.site: len(split.training) for split in splits if split.training}
    external = next((split.site for split in splits if not split.training), None)
    by_site = {
        arm: {
            **{split.site: [one[split.site] for one in repeats] for split in splits},
            ALL_SITES: [_together(one, counts) for one in repeats],
        }
        for arm, repeats in scores.items()
    }
    own_patients = {
        **patients,
        **{f"{site}/{case}": name for site in counts for case, name in patients.items()},
    }
    differences = {}
    for arm, of_arm in by_site.items():
        other = by_site.get(_reference_row(arm, reference))
        if other is not None and other is not of_arm:
            differences[arm] = {
                site: _differences(repeats, other[site], own_patients)
                for site, repeats in of_arm.items()
            }
    return ExperimentResult(
        cells={
            arm: {site: cell(repeats, own_patients) for site, repeats in of_arm.items()}
            for arm, of_arm in by_site.items()
        },
        n_training_cases=counts,
        external=external,
        reference=reference,
        n_repeats=max((len(repeats) for repeats in scores.values()), default=0),
        differences=differences,
    )


def _together(scores: Mapping[str, Scores], sites: Mapping[str, int]) -> Scores:
    return {f"{site}/{case}": v for site in sites for case, v in scores[site].items()}


def _reference_row(row: str, reference: str) -> str:
    """Return the row of the reference with the same configuration."""
    _, comma, configuration = row.partition(", ")
    return f"{reference}{comma}{configuration}"


def cell(repeats: Sequence[Scores], patients: Mapping[str, str] = MappingProxyType({})) -> Cell:
    """Return the mean of all test cases, and its spread over folds and seeds.

    Raises:
        FedfsError: no test case holds a class of the study.
    """
    means = [mean([v["dice"] for v in cases.values()]) for cases in repeats]
    known = [mean for mean in means if mean is not None]
    if not known:
        raise FedfsError(
            "No test case holds a class of the study.",
            hint="give a larger --test-share, or more cases",
        )
    low, high = intervals.interval(_by_case(repeats, "dice"), patients, _SEED)
    return Cell(
        dice=fmean(known),
        dice_sd=_sd(known),
        hd95_mm=mean([v["hd95"] for cases in repeats for v in cases.values()]),
        n_cases=len(repeats[0]),
        dice_low=low,
        dice_high=high,
    )


def _differences(
    one: Sequence[Scores], other: Sequence[Scores], patients: Mapping[str, str]
) -> dict[str, Difference]:
    out = {}
    for metric in METRICS:
        found = intervals.paired_difference(
            _by_case(one, metric), _by_case(other, metric), patients, _SEED
        )
        if found is None:
            continue
        by_repeat = [_mean_difference(a, b, metric) for a, b in zip(one, other, strict=True)]
        out[metric] = Difference(
            mean=found.mean,
            low=found.low,
            high=found.high,
            p=found.p,
            n_cases=found.n,
            n_patients=found.n_patients,
            sd=_sd([value for value in by_repeat if value is not None]),
            by_repeat=tuple(by_repeat),
        )
    return out


def _by_case(repeats: Sequence[Scores], metric: str) -> dict[str, float]:
    """Return case -> mean over the folds and seeds in which it is defined."""
    means = {case: mean([one[case][metric] for one in repeats]) for case in repeats[0]}
    return {case: value for case, value in means.items() if value is not None}


def _mean_difference(one: Scores, other: Scores, metric: str) -> float | None:
    pairs = ((one[case][metric], other[case][metric]) for case in one)
    return mean([a - b if a is not None and b is not None else None for a, b in pairs])


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def read_scores(output: Path) -> Scores:
    """Return what a prediction has left in its output folder."""
    cases = json.loads((output / CASE_SCORES).read_text(encoding="utf-8"))
    return {
        case: {
            name: mean([metrics.get(metric) for metrics in classes.values()])
            for name, metric in (("dice", "dice"), ("hd95", "hd95_mm"))
        }
        for case, classes in cases.items()
    }


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """Return the mean of the scores of several models."""
    return {
        case: {name: mean([part[case][name] for part in parts]) for name in METRICS}
        for case in parts[0]
    }
