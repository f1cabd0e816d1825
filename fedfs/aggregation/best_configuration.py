"""The best configuration or ensemble and its postprocessing, from what the sites add up.

nnU-Net's ``find_best_configuration`` and ``determine_postprocessing`` take means over all cases of
the cross-validation. A mean over all cases is the sum of the sites' sums by the sum of their
numbers, so that the sites need not show a case, and the choice is the one that nnU-Net would make
with all cases in one place.

Postprocessing keeps the largest component: of the whole foreground (:data:`FOREGROUND`), then of
one class after the other. ``steps`` names what was done, in that order. Classes that do not overlap
do not touch each other's Dice, so that each is only scored with the foreground's step before it;
regions overlap, and are scored in all combinations (:func:`steps_of`).

Where only totals over sites can be seen, the choice is among the configurations alone, by their
totals: neither ensembles nor postprocessing are scored.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfs.errors import StudyError
from fedfs.protocol.messages.scores import DiceSum, ScoreTotal

FOREGROUND = "foreground"
JOINT = "+"
"""Between two configurations of an ensemble, and between two steps."""

MAX_REGIONS = 6
"""Most regions whose combinations are all scored."""


Candidates = Mapping[str, Mapping[str, Mapping[str, DiceSum]]]
"""Configuration or ensemble -> steps of postprocessing -> class -> sum over validation cases."""


@dataclass(frozen=True)
class CrossValidated:
    """Scores of the final models of all configurations on ``n_cases`` validation cases."""

    scores: Candidates
    n_cases: int


@dataclass(frozen=True)
class Chosen:
    """The best candidate, with its scores.

    Attributes:
        candidate: a configuration, or two of an ensemble joined by ``+``.
        steps: of postprocessing, in order.
        dice: candidate -> mean Dice of the foreground before postprocessing.
        dice_after: that of the chosen one after it.
        classes: of the chosen one, class -> mean Dice before and after.
        n_cases: cases that were scored.
    """

    candidate: str
    steps: tuple[str, ...]
    dice: Mapping[str, float]
    dice_after: float
    classes: Mapping[str, tuple[float, float]]
    n_cases: int


def candidates_of(configurations: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the single configurations, then all ensembles of two, as nnU-Net tries them."""
    singles = [(name,) for name in configurations]
    return [*singles, *itertools.combinations(configurations, 2)]


def steps_of(classes: Sequence[str], *, overlap: bool) -> list[tuple[str, ...]]:
    """Return the postprocessing that a candidate has to be scored with.

    Args:
        classes: keys of classes or regions, in nnU-Net's order.
        overlap: whether they are regions.
    """
    if len(classes) == 1:
        return [(), (FOREGROUND,)]
    if overlap and len(classes) <= MAX_REGIONS:
        after = [c for n in range(len(classes) + 1) for c in itertools.combinations(classes, n)]
    else:
        after = [(), *((one,) for one in classes)]
    return [(*first, *rest) for first in ((), (FOREGROUND,)) for rest in after]


def choose(
    sites: Mapping[str, Candidates],
    n_cases: int,
    *,
    configurations: Sequence[str],
    classes: Sequence[str],
    overlap: bool,
) -> Chosen:
    """Return the best candidate and its postprocessing.

    Args:
        sites: of each site, what its cross-validation adds up to.
        n_cases: cases behind these sums.
        configurations: in the order in which they are tried; of equals the first one wins.
        classes: keys of classes or regions, in nnU-Net's order.
        overlap: whether they are regions.

    Raises:
        StudyError: a site scored something else, or there is nothing to compare.
    """
    chains = [JOINT.join(steps) for steps in steps_of(classes, overlap=overlap)]
    total = {
        candidate: {
            steps: {name: _added(sites, candidate, steps, name) for name in classes}
            for steps in chains
        }
        for candidate in map(JOINT.join, candidates_of(configurations))
    }
    dice = {name: _mean(_means(scores, ())) for name, scores in total.items()}
    if all(math.isnan(value) for value in dice.values()):
        raise StudyError(
            "No site has a case on which the models can be compared.",
            hint="take the track that you want: fedfs export --track NAME",
        )
    best = max(dice, key=lambda name: -math.inf if math.isnan(dice[name]) else dice[name])
    scores = total[best]
    before = _means(scores, ())
    steps: tuple[str, ...] = ()
    whole = _means(scores, (FOREGROUND,))
    if _mean(whole) > _mean(before) and not any(whole[c] < before[c] for c in before):
        steps = (FOREGROUND,)
    for name in classes if len(classes) > 1 else ():
        if _means(scores, (*steps, name))[name] > _means(scores, steps)[name]:
            steps = (*steps, name)
    after = _means(scores, steps)
    return Chosen(
        candidate=best,
        steps=steps,
        dice=dice,
        dice_after=_mean(after),
        classes={name: (before[name], after[name]) for name in before},
        n_cases=n_cases,
    )


def choose_by_totals(
    totals: Mapping[str, Sequence[ScoreTotal] | None], classes: Mapping[str, str]
) -> Chosen:
    """Return the best configuration by totals over sites; nothing is done to its predictions.

    Args:
        totals: of each configuration, in the order in which they are tried, that of the last
            version of each fold; None for one that has not all of them.
        classes: name -> key, in nnU-Net's order.

    Raises:
        StudyError: totals are of different sites, or there are none.
    """
    there = {name: of for name, of in totals.items() if of is not None}
    if len({tuple(one.sites for one in of) for of in there.values()}) > 1:
        raise StudyError(
            "The totals of the configurations are of different sites, so that they say nothing "
            "about which configuration is better.",
            hint="take the track that you want: fedfs export --track NAME",
        )
    means = {name: _means_of_totals(of, classes) for name, of in there.items()}
    dice = {name: _mean(means[name]) if name in means else math.nan for name in totals}
    if all(math.isnan(value) for value in dice.values()):
        raise StudyError(
            "No configuration has a total of each of its folds.",
            hint="take the track that you want: fedfs export --track NAME",
        )
    best = max(dice, key=lambda name: -math.inf if math.isnan(dice[name]) else dice[name])
    return Chosen(
        candidate=best,
        steps=(),
        dice=dice,
        dice_after=dice[best],
        classes={key: (mean, mean) for key, mean in means[best].items()},
        n_cases=sum(one.n_cases for one in there[best]),
    )


def _means_of_totals(totals: Sequence[ScoreTotal], classes: Mapping[str, str]) -> dict[str, float]:
    """Return key of a class -> mean Dice over folds; NaN for one that never occurs."""
    out = {}
    for name, key in classes.items():
        parts = [one.classes[name] for one in totals if name in one.classes]
        out[key] = DiceSum(math.fsum(p.total for p in parts), sum(p.n for p in parts)).mean
    return out


def _added(sites: Mapping[str, Candidates], candidate: str, steps: str, name: str) -> DiceSum:
    try:
        parts = [scores[candidate][steps][name] for _, scores in sorted(sites.items())]
    except KeyError as error:
        raise StudyError(
            f"A site has not scored {candidate} with the postprocessing {steps or 'none'}.",
            hint="all sites need the same version of fedfs",
        ) from error
    return DiceSum(math.fsum(part.total for part in parts), sum(part.n for part in parts))


def _means(scores: Mapping[str, Mapping[str, DiceSum]], steps: Sequence[str]) -> dict[str, float]:
    """Return the mean Dice of each class after ``steps``; NaN for one that never occurs."""
    joint = JOINT.join(steps)
    if joint in scores:
        return {name: one.mean for name, one in scores[joint].items()}
    first = [FOREGROUND] if FOREGROUND in steps else []
    out = {}
    for name in scores[""]:
        alone = [*first, name] if name in steps else first
        out[name] = scores[JOINT.join(alone)][name].mean
    return out


def _mean(values: Mapping[str, float]) -> float:
    """Return the mean over classes that occur; NaN if none does."""
    found = [value for value in values.values() if not math.isnan(value)]
    return math.fsum(found) / len(found) if found else math.nan
