"""Membership tests: how well scores tell the cases that a model was trained on from others.

Rules:
 * A score is larger where a case looks more like one that was trained on.
 * The AUC is the share of pairs, one of each kind, in which the trained one has the larger score;
   equal scores count half. 0.5 is guessing.
 * The true positive rate is that at a false positive rate of at most :data:`FPR` (Carlini et al.,
   "Membership inference attacks from first principles", 2022). Of fewer than 100 cases that were
   kept back, none may then be taken for a trained one: :func:`fpr_bound` says what that proves.
 * Intervals are percentiles of a bootstrap that draws the patients of both kinds, each with all of
   its cases. Where the kinds do not overlap at all, it is shorter than it should be.
 * Equal numbers and seeds give equal bits, in whatever order cases come.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.aggregation.intervals import CONFIDENCE, MIN_PATIENTS, Interval

FPR = 0.01
"""Largest false positive rate at which true positives are counted."""

N_RESAMPLES = 2000
_DIGITS = 12  # smaller differences are those of rounding

LOSS, CHANGE, CONTRAST, REFERENCES = "loss", "change", "contrast", "references"
ATTACKS = {
    LOSS: "the model's loss is small",
    CHANGE: "the loss became smaller than it was in the version before",
    CONTRAST: "the loss is smaller than in the next version, which others have trained, too",
    REFERENCES: "the model is surer than models that were not trained on the case",
}
"""Attack -> what it takes for a sign that a case was trained on."""

Scores = Mapping[str, float]
"""Case -> score."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Separation:
    """Separation of two kinds of cases by their scores.

    Attributes:
        n_trained, n_others: cases of each kind.
        auc: with both ends of its 95 % interval; None of fewer than
            :data:`~fedfs.aggregation.intervals.MIN_PATIENTS` patients of a kind.
        tpr: true positive rate, likewise.
    """

    n_trained: int
    n_others: int
    auc: float
    auc_low: float | None
    auc_high: float | None
    tpr: float
    tpr_low: float | None
    tpr_high: float | None


@dataclass(frozen=True, kw_only=True)
class CaseFit:
    """Fit of a model to a case.

    Attributes:
        loss: nnU-Net's own, of the whole case.
        margin: mean log odds of the true classes where the structure is, or is predicted.
        dice: mean over the classes that occur; None where none does.
    """

    loss: float
    margin: float
    dice: float | None


Fits = Mapping[str, CaseFit]
"""Case -> how well a model fits it."""


def attack(
    model: Fits,
    *,
    before: Fits | None = None,
    following: Fits | None = None,
    references: Sequence[Fits] = (),
) -> dict[str, dict[str, float]]:
    """Return attack -> case -> score, of those attacks for which there is something to compare.

    Args:
        model: that is attacked.
        before: the version that it was trained from.
        following: the version that was made of it and of others.
        references: models, each on the cases that it was not trained on. Of their margins, the mean
            is taken off: LiRA, offline, with one variance for all cases, which changes no order.
    """
    found = {LOSS: {case: -fit.loss for case, fit in model.items()}}
    if before:
        found[CHANGE] = {c: before[c].loss - fit.loss for c, fit in model.items() if c in before}
    if following:
        found[CONTRAST] = {
            c: following[c].loss - fit.loss for c, fit in model.items() if c in following
        }
    if references:
        without = {case: [one[case].margin for one in references if case in one] for case in model}
        found[REFERENCES] = {
            case: fit.margin - fmean(without[case]) for case, fit in model.items() if without[case]
        }
    return found


def together(scores: Sequence[Mapping[str, Scores]]) -> dict[str, dict[str, float]]:
    """Return attack -> case -> mean score over several models, of the cases that all have."""
    names = [name for name in ATTACKS if any(name in one for one in scores)]
    out = {}
    for name in names:
        having = [one[name] for one in scores if name in one]
        cases = set.intersection(*map(set, having))
        out[name] = {case: fmean([one[case] for one in having]) for case in sorted(cases)}
    return out


def halves(
    cases: Sequence[str], patients: Mapping[str, str], n: int, seed: int
) -> list[tuple[str, ...]]:
    """Return halves of the cases to train references on, in pairs that have all cases together.

    >>> [sorted(half) for half in halves("abcd", {"a": "one", "b": "one"}, 2, seed=1)]
    [['a', 'b'], ['c', 'd']]

    Args:
        cases: of both kinds.
        patients: case -> patient, whose cases stay together; see :func:`separate`.
        n: number of halves, even.
        seed: of the division.
    """
    rng, found = np.random.default_rng(seed), []
    groups: dict[tuple[str, str], list[str]] = {}
    for case in sorted(cases):
        groups.setdefault(_patient(case, patients), []).append(case)
    for _ in range(n // 2):
        drawn = [list(groups.values())[i] for i in rng.permutation(len(groups))]
        one: list[str] = []
        for group in drawn:
            if 2 * len(one) < len(cases):
                one += group
        found += [tuple(one), tuple(case for case in cases if case not in one)]
    return found


def separate(
    scores: Scores, trained: Collection[str], patients: Mapping[str, str], seed: int
) -> Separation:
    """Return how well scores tell the trained cases from all others.

    >>> found = separate({"a": 0.9, "b": 0.4, "c": 0.5, "d": 0.1}, ["a", "b"], {}, seed=1)
    >>> found.auc, found.tpr, found.auc_low
    (0.75, 0.5, None)

    Args:
        scores: of cases of both kinds, at least one of each.
        trained: cases that were trained on; others in it do not matter.
        patients: case -> patient; a case that is not named is a patient of its own. No patient has
            cases of both kinds.
        seed: of the intervals.
    """
    rounded = {case: round(value, _DIGITS) for case, value in scores.items()}
    one = _Side.of({c: v for c, v in rounded.items() if c in trained}, patients)
    other = _Side.of({c: v for c, v in rounded.items() if c not in trained}, patients)
    auc, tpr = (float(value[0]) for value in _measure(one, other, one.all(), other.all()))
    of_auc: Interval = (None, None)
    of_tpr: Interval = (None, None)
    if min(one.n_patients, other.n_patients) >= MIN_PATIENTS:
        rng = np.random.default_rng(seed)
        drawn = _measure(one, other, one.drawn(rng), other.drawn(rng))
        of_auc, of_tpr = _ends(drawn[0]), _ends(drawn[1])
    return Separation(
        n_trained=len(one.values),
        n_others=len(other.values),
        auc=auc,
        auc_low=of_auc[0],
        auc_high=of_auc[1],
        tpr=tpr,
        tpr_low=of_tpr[0],
        tpr_high=of_tpr[1],
    )


def fpr_bound(n_others: int) -> float:
    """Return the largest false positive rate that :data:`FPR` may be in truth, at 95 %.

    Where so many cases were kept back and at most that share of them is taken for a trained one: of
    none in n, ``1 - 0.05 ** (1 / n)`` (one-sided Clopper and Pearson).

    >>> round(fpr_bound(30), 3)
    0.095
    """
    from scipy import stats  # noqa: PLC0415  takes a second

    taken = int(FPR * n_others)
    return float(stats.beta.ppf(CONFIDENCE, taken + 1, n_others - taken))


@dataclass(frozen=True)
class _Side:
    """Cases of one kind, ascending, and which patient each is of."""

    values: _Array
    patient_of: npt.NDArray[np.intp]
    n_patients: int

    @classmethod
    def of(cls, scores: Scores, patients: Mapping[str, str]) -> "_Side":
        groups: dict[tuple[str, str], list[float]] = {}
        for case, value in scores.items():
            groups.setdefault(_patient(case, patients), []).append(value)
        ordered = sorted(sorted(group) for group in groups.values())  # no name decides
        pairs = [(value, number) for number, group in enumerate(ordered) for value in group]
        values, patient_of = zip(*sorted(pairs), strict=True)
        return cls(np.array(values), np.array(patient_of), len(ordered))

    def all(self) -> _Array:
        """Return the weights of all cases, once: a row."""
        return np.ones((1, len(self.values)))

    def drawn(self, rng: np.random.Generator) -> _Array:
        """Return a row of weights for each resample of patients."""
        n = self.n_patients
        counts = rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
        return counts[:, self.patient_of].astype(np.float64)


def _patient(case: str, patients: Mapping[str, str]) -> tuple[str, str]:
    """Return a patient; one that has only this case is not mixed up with another of its name."""
    return ("patient", patients[case]) if case in patients else ("case", case)


def _measure(one: _Side, other: _Side, w: _Array, v: _Array) -> tuple[_Array, _Array]:
    """Return AUC and TPR for each row of weights of the trained cases, and of the others."""
    larger = _above(one.values, other.values)
    pairs = larger + 0.5 * (one.values[:, None] == other.values)
    auc = ((w @ pairs) * v).sum(1) / (w.sum(1) * v.sum(1))
    # Thresholds are the others' scores: what lies above one counts as trained.
    false = (v @ _above(other.values, other.values)) / v.sum(1, keepdims=True)
    threshold = (false <= FPR).argmax(1)  # the lowest that is allowed; the last always is
    tpr = (w * larger[:, threshold].T).sum(1) / w.sum(1)
    return auc, tpr


def _above(values: _Array, thresholds: _Array) -> npt.NDArray[Any]:
    return (values[:, None] > thresholds).astype(np.float64)


def _ends(values: _Array) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return round(float(low), _DIGITS), round(float(high), _DIGITS)
