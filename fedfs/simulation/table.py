"""The table of an experiment: methods by sites, each a mean over cases, folds and seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from fedfs.errors import FedfsError
from fedfs.nnunet.score.case_metrics import CASE_SCORES
from fedfs.simulation.cases import Split

Scores = Mapping[str, Mapping[str, float | None]]
"""Test case -> ``dice`` and ``hd95`` (mm); None where it is not defined."""


@dataclass(frozen=True)
class Cell:
    """A method at a site: mean over test cases, and its spread over folds and seeds."""

    dice: float
    dice_sd: float | None
    hd95_mm: float | None
    n_cases: int


@dataclass(frozen=True)
class ExperimentResult:
    """Results of an experiment.

    Attributes:
        cells: arm, with several configurations ``arm, configuration`` -> site (the external one
            too, and ``mean`` of those that trained) -> numbers.
        n_training_cases: by site.
        external: the site that did not train.
    """

    cells: Mapping[str, Mapping[str, Cell]]
    n_training_cases: Mapping[str, int]
    external: str | None


def tabulate(
    scores: Mapping[str, Sequence[Mapping[str, Scores]]], splits: Sequence[Split]
) -> ExperimentResult:
    """Return the results of an experiment.

    Args:
        scores: row of the table -> for each fold and seed, site -> scores.
        splits: of all sites; the one without training cases is external.

    Raises:
        FedfsError: no test case holds a class of the study.
    """
    counts = {split.site: len(split.training) for split in splits if split.training}
    external = next((split.site for split in splits if not split.training), None)
    cells: dict[str, dict[str, Cell]] = {}
    for arm, repeats in scores.items():
        row = {split.site: cell([r[split.site] for r in repeats]) for split in splits}
        together = [
            {f"{site}/{case}": v for site in counts for case, v in r[site].items()} for r in repeats
        ]
        cells[arm] = {**row, "mean": cell(together)}
    return ExperimentResult(cells, counts, external)


def cell(repeats: Sequence[Scores]) -> Cell:
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
    distances = [v["hd95"] for cases in repeats for v in cases.values()]
    return Cell(
        dice=fmean(known),
        dice_sd=stdev(known) if len(known) > 1 else None,
        hd95_mm=mean(distances),
        n_cases=len(repeats[0]),
    )


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
        case: {name: mean([part[case][name] for part in parts]) for name in ("dice", "hd95")}
        for case in parts[0]
    }
