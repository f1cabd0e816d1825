"""Scores of models at sites, from accepted evaluations: each model, pairs of them, the best. Pure.

Rules:
 * The models of a site were scored beside each other: at the last version, on the same cases.
 * A number that is not known is None. One that cannot be true is left out: of more cases than the
   site has announced, outside of what its metric can be, or of a model that the site never scored.
 * A pair is one model minus the one that is nearer to what the site has without the others: first
   local, then federated.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedfs.aggregation.random_effects import cases_needed, error_of_interval, mean_interval
from fedfs.learner import METRICS
from fedfs.protocol import participation
from fedfs.protocol.messages import EvaluationMessage, PairedDifference, Summary
from fedfs.protocol.score_rules import PSEUDO
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import is_credible, last_scored

DICE, LOCAL, FEDERATED = "dice", "local", "full"
OF = "of-"
SMALL_DIFFERENCE = 0.01
"""Difference of Dice that is taken for one that matters, where a number of cases is planned."""

BETTER, WORSE, NOT_SHOWN, UNKNOWN = "better", "worse", "no difference shown", "no interval"

_NOUNS = {
    LOCAL: "local model",
    FEDERATED: "federated model",
    "average": "average of the last versions",
    "ema": "exponential average of versions",
    "ensemble": "ensemble of local models",
    "personal": "personal model",
}
"""Model -> its name for people, in the order of tables."""
_ORDER = tuple(_NOUNS)
_UP_TO_1 = {"dice", "nsd", "f1", "sensitivity", "calibration_error"}
_LOWER_IS_BETTER = {"hd95_mm", "false_positives", "calibration_error"}
_WITHOUT_BEST = {"volume_ml", "reference_volume_ml"}


@dataclass(frozen=True)
class Score:
    """Distribution of a metric over the cases of one site in which it is defined.

    Attributes:
        low, high: 95 % interval of the mean, by Student's t.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelAtSite:
    """One model at one site.

    Attributes:
        model: variant of its evaluation.
        budget: its training iterations at this site, in those of the federation.
        metrics: metric -> score of the mean over classes.
        classes: class -> metric -> score.
        nsd_tolerance_mm: of the metric ``nsd``.
    """

    site: str
    model: str
    budget: float
    metrics: Mapping[str, Score]
    classes: Mapping[str, Mapping[str, Score]]
    nsd_tolerance_mm: float | None = None

    @property
    def dice(self) -> Score:
        """Its Dice; a model without is not listed."""
        return self.metrics[DICE]


@dataclass(frozen=True)
class Difference:
    """One model minus another, on the same cases of one site.

    Attributes:
        low, high: 95 % interval of the mean difference; None of a single patient.
        p: of Wilcoxon's signed-rank test.
        needed: patients that would show a difference of :data:`SMALL_DIFFERENCE`, of Dice.
        needed_for_mean: patients that would show this mean difference, if it is the true one.
    """

    site: str
    model: str
    other: str
    metric: str
    n: int
    n_patients: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    needed: int | None
    needed_for_mean: int | None

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return error_of_interval(self.low, self.high, self.n_patients)

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves zero out."""
        if self.low is None or self.high is None:
            return UNKNOWN
        if self.low <= 0 <= self.high or self.metric in _WITHOUT_BEST:
            return NOT_SHOWN
        return BETTER if (self.low > 0) != (self.metric in _LOWER_IS_BETTER) else WORSE


@dataclass(frozen=True)
class Choice:
    """The model that a site would choose; its Dice is of cases that did not choose."""

    site: str
    model: str
    among: tuple[str, ...]
    n: int
    dice: float
    low: float | None
    high: float | None


def model_name(model: str) -> str:
    """Return the name of a model for people: ``federated model``, ``model north``."""
    return _NOUNS.get(model) or f"model {model.removeprefix(OF)}"


def order(model: str) -> tuple[int, str]:
    """Return the key by which models are sorted."""
    return (_ORDER.index(model) if model in _ORDER else len(_ORDER), model)


def models_at_sites(state: StudyState) -> list[ModelAtSite]:
    """Return the models of each site that have a Dice."""
    rows = []
    for message in _evaluations(state):
        metrics = _scores(message.metrics, message)
        if DICE not in metrics and message.mean_dice is not None and message.n_cases:
            metrics = {DICE: Score(message.n_cases, message.mean_dice), **metrics}
        if DICE in metrics:
            classes = {
                name: _scores(of, message)
                for name, of in sorted(message.metrics_by_class.items())
                if name in state.charter.dataset.labels
            }
            rows.append(
                ModelAtSite(
                    message.site,
                    message.variant,
                    message.budget,
                    metrics,
                    classes,
                    message.nsd_tolerance_mm,
                )
            )
    return rows


def differences(state: StudyState) -> list[Difference]:
    """Return what sites have published of pairs of models, each pair once."""
    scored = {(message.site, message.variant): message for message in _evaluations(state)}
    rows: dict[tuple[str, ...], Difference] = {}
    for (site, model), message in scored.items():
        for other, by_metric in message.against.items():
            if other == model or (site, other) not in scored:
                continue
            n_cases = min(message.n_cases, scored[site, other].n_cases)
            for metric in METRICS:
                found = by_metric.get(metric)
                if found is not None and found.n <= n_cases and _is_difference(metric, found):
                    row = _difference(site, model, other, metric, found)
                    rows.setdefault((site, row.model, row.other, metric), row)
    return sorted(rows.values(), key=lambda row: (row.site, order(row.other), order(row.model)))


def choices(state: StudyState) -> list[Choice]:
    """Return the models that sites would choose, among all that each has scored."""
    scored: dict[str, list[EvaluationMessage]] = {}
    for message in _evaluations(state):
        scored.setdefault(message.site, []).append(message)
    rows = []
    for site, of in scored.items():
        n_cases = {message.variant: message.n_cases for message in of}
        known = [
            one
            for message in of
            if (one := message.chosen)
            and {one.variant, *one.among} <= n_cases.keys()
            and one.variant in one.among
            and one.n <= n_cases[one.variant]
        ]
        if known:
            one = max(known, key=lambda chosen: len(chosen.among))
            rows.append(
                Choice(
                    site, one.variant, one.among, one.n, one.dice, *_inside(DICE, one.low, one.high)
                )
            )
    return rows


def merged_dice(messages: Sequence[EvaluationMessage]) -> Score | None:
    """Return the Dice of a site over all cases of its folds; None unless each has published it."""
    scores = [_scores(message.metrics, message).get(DICE) for message in messages]
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    n = sum(score.n for score in known)
    mean = math.fsum(score.n * score.mean for score in known) / n
    within = math.fsum((score.n - 1) * (score.sd or 0) ** 2 for score in known)
    between = math.fsum(score.n * (score.mean - mean) ** 2 for score in known)
    sd = math.sqrt((within + between) / (n - 1)) if n > 1 else None
    return Score(n, mean, sd, *_inside(DICE, *mean_interval(n, mean, sd)))


def _evaluations(state: StudyState) -> Iterator[EvaluationMessage]:
    """Yield the evaluations of models that may be compared, by site and model."""
    last = last_scored(state)
    found = [
        message
        for (_, version, variant), message in state.evaluations.items()
        if version == last and _is_compared(state, message)
    ]
    yield from sorted(found, key=lambda message: (message.site, order(message.variant)))


def _is_compared(state: StudyState, message: EvaluationMessage) -> bool:
    """Return whether it is of a model that this site may score, and credible."""
    model = message.variant
    is_there = not model.startswith(OF) or model.removeprefix(OF) in participation.models_to_score(
        state, message.site
    )
    return model != PSEUDO and is_there and is_credible(state, message)


def _scores(summaries: Mapping[str, Summary], message: EvaluationMessage) -> dict[str, Score]:
    """Return metric -> score of those that are known and possible."""
    return {
        metric: Score(
            one.n, one.mean, one.sd, *_inside(metric, *mean_interval(one.n, one.mean, one.sd))
        )
        for metric in METRICS
        if (one := summaries.get(metric))
        and one.n <= message.n_cases
        and _inside(metric, one.mean, one.mean) == (one.mean, one.mean)
    }


def _inside(
    metric: str, low: float | None, high: float | None
) -> tuple[float, float] | tuple[None, None]:
    if low is None or high is None:
        return None, None
    end = 1.0 if metric in _UP_TO_1 else math.inf
    return min(max(low, 0.0), end), min(max(high, 0.0), end)


def _is_difference(metric: str, found: PairedDifference) -> bool:
    ends = (found.mean, found.low or 0, found.high or 0)
    return metric not in _UP_TO_1 or max(map(abs, ends)) <= 1


def _difference(
    site: str, model: str, other: str, metric: str, found: PairedDifference
) -> Difference:
    low, high, mean = found.low, found.high, found.mean
    if order(model) < order(other):
        model, other, mean = other, model, -mean
        low, high = (None if high is None else -high), (None if low is None else -low)
    row = Difference(
        site, model, other, metric, found.n, found.n_patients, mean, low, high, found.p, None, None
    )
    if metric != DICE or row.error is None:
        return row
    sd = row.error * math.sqrt(row.n_patients)
    return replace(
        row,
        needed=cases_needed(SMALL_DIFFERENCE, sd),
        needed_for_mean=cases_needed(mean, sd),
    )
