"""Models beside each other: at each site, in pairs, over all sites, and in words. Pure.

A number that is not known is None. What is compared at a site was scored on the same cases.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedfs.aggregation.random_effects import Estimate, RandomEffects, pool
from fedfs.protocol import layout
from fedfs.protocol.messages import ASYM, SUPPRESSED, EvaluationMessage
from fedfs.protocol.state import StudyState
from fedfs.roles.reader import model_scores
from fedfs.roles.reader.evaluations import hidden_text, is_credible
from fedfs.roles.reader.given_models import mean_dice_of
from fedfs.roles.reader.model_scores import (
    DICE,
    FEDERATED,
    OF,
    Choice,
    Difference,
    ModelAtSite,
    Score,
)
from fedfs.roles.reader.report import sentences
from fedfs.roles.reader.report.columns import mean_of_known

GLOBAL = "final model"


@dataclass(frozen=True)
class LocalRow:
    """At one site: a model of its data alone, and the federated one.

    Attributes:
        local, federated: mean Dice of nnU-Net's full validation.
        local_hd95_mm, federated_hd95_mm: mean over classes.
        classes: class -> Dice, local and federated.
        budget: training iterations of the local model, in those of the study.
    """

    site: str
    n_cases: int
    local: float | None
    federated: float | None
    local_hd95_mm: float | None
    federated_hd95_mm: float | None
    classes: Mapping[str, tuple[float | None, float | None]]
    budget: float = 1.0

    @property
    def gain(self) -> float | None:
        """Federated minus local."""
        if self.local is None or self.federated is None:
            return None
        return self.federated - self.local


@dataclass(frozen=True)
class MatrixRow:
    """One model at every site: site -> mean Dice on that site's validation cases."""

    model: str
    dice: Mapping[str, float | None]

    @property
    def mean(self) -> float | None:
        """Over the sites where it is known."""
        return mean_of_known(self.dice.values())


@dataclass(frozen=True)
class PooledModel:
    """The Dice of one model over all sites.

    Attributes:
        effects: random-effects mean; of one site at least.
        lowest, highest: means of single sites.
    """

    model: str
    effects: RandomEffects
    lowest: float
    highest: float


@dataclass(frozen=True)
class PooledDifference:
    """The difference in Dice of two models over all sites."""

    model: str
    other: str
    effects: RandomEffects


@dataclass(frozen=True)
class Comparison:
    """Everything that is known of models beside each other.

    Attributes:
        models: by site and model.
        best: site -> best model, where there are several.
        differences: pairs of models by site, of each metric.
        pooled, pooled_differences: over sites, of Dice, where two sites or more can be weighed.
        left_out: sites whose scores cannot be true.
        paragraphs: the same in words.
    """

    models: tuple[ModelAtSite, ...] = ()
    choices: tuple[Choice, ...] = ()
    best: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    pooled: tuple[PooledModel, ...] = ()
    pooled_differences: tuple[PooledDifference, ...] = ()
    left_out: tuple[str, ...] = ()
    paragraphs: tuple[str, ...] = ()

    @property
    def of_dice(self) -> list[Difference]:
        """Differences of Dice; of models of other sites only to a model of the site's own."""
        return _of_dice(self.differences)


def compare(state: StudyState) -> Comparison:
    """Return what sites have published of their models."""
    models, choices = model_scores.models_at_sites(state), model_scores.choices(state)
    found = model_scores.differences(state)
    of_dice = _of_dice(found)
    pooled, pooled_differences = _pooled_models(models), _pooled_differences(of_dice)
    left_out = sorted({site for (site, _, _), message in state.evaluations.items()
                       if not is_credible(state, message)})  # fmt: skip
    over_sites = {one.model: one.effects for one in pooled}
    told = [
        *sentences.tell_pairs(
            of_dice, {(one.model, one.other): one.effects for one in pooled_differences}
        ),
        " ".join(sentences.tell_sites(models, over_sites)),
        " ".join(sentences.tell_choices(models, choices)),
        " ".join(sentences.tell_intervals(of_dice)),
        *sentences.tell_exclusions(left_out),
        *sentences.tell_suppressed(
            sorted(
                {
                    one.site
                    for one in state.evaluations.values()
                    if hidden_text(state, one) == SUPPRESSED
                }
            )
        ),
    ]
    return Comparison(
        models=tuple(models),
        choices=tuple(choices),
        best=sentences.best_at_sites(models, choices),
        differences=tuple(found),
        pooled=tuple(pooled),
        pooled_differences=tuple(pooled_differences),
        left_out=tuple(left_out),
        paragraphs=tuple(paragraph for paragraph in told if paragraph),
    )


def pool_scores(scores: Iterable[Score]) -> RandomEffects | None:
    """Return the random-effects mean of a metric, of one score for each site."""
    return pool([Estimate(s.mean, None if s.sd is None else s.sd / math.sqrt(s.n)) for s in scores])


def _of_dice(rows: Iterable[Difference]) -> list[Difference]:
    of_dice = [row for row in rows if row.metric == DICE]
    if not any(FEDERATED in (row.model, row.other) for row in of_dice):
        return of_dice
    return [row for row in of_dice if not row.other.startswith(OF)]


def _pooled_models(models: Sequence[ModelAtSite]) -> list[PooledModel]:
    out = []
    for model in sorted({row.model for row in models}, key=model_scores.order):
        scores = [row.dice for row in models if row.model == model]
        effects = pool_scores(scores)
        if effects is not None and effects.low is not None:
            means = [score.mean for score in scores]
            out.append(PooledModel(model, _inside(effects, 0.0), min(means), max(means)))
    return out


def _inside(effects: RandomEffects, lowest: float) -> RandomEffects:
    """Return a mean whose intervals end where Dice does, or a difference of it."""
    ends = ("low", "high", "next_low", "next_high")
    known = {name: value for name in ends if (value := getattr(effects, name)) is not None}
    return replace(effects, **{name: min(max(v, lowest), 1.0) for name, v in known.items()})


def _pooled_differences(rows: Sequence[Difference]) -> list[PooledDifference]:
    pairs = dict.fromkeys((row.model, row.other) for row in rows)
    out = []
    for model, other in pairs:
        of_pair = [row for row in rows if (row.model, row.other) == (model, other)]
        effects = pool([Estimate(row.mean, row.error) for row in of_pair])
        if effects is not None and effects.low is not None:
            out.append(PooledDifference(model, other, _inside(effects, -1.0)))
    return out


def local_rows(state: StudyState) -> tuple[LocalRow, ...]:
    """Return the sites that have trained alone too, by name."""
    out = []
    for (site, version, variant), local in sorted(state.evaluations.items()):
        federated = state.evaluations.get((site, version, "full"))
        if variant != "local" or federated is None:
            continue
        out.append(
            LocalRow(
                site=site,
                n_cases=local.n_cases,
                local=local.mean_dice,
                federated=federated.mean_dice,
                local_hd95_mm=_distance(local),
                federated_hd95_mm=_distance(federated),
                classes={
                    name: (score.dice, federated.classes[name].dice)
                    for name, score in local.classes.items()
                    if name in federated.classes
                },
                budget=local.budget,
            )
        )
    return tuple(out)


def matrix(state: StudyState, final: Mapping[str, EvaluationMessage]) -> tuple[MatrixRow, ...]:
    """Return a row for the final model, or in the mode ``asym`` for each site's that others scored.

    Where nothing is trained, a row for each given model.

    Args:
        state: accepted messages.
        final: site -> full validation of the last version; these sites are the columns.
    """
    if state.charter.evaluates:
        return tuple(MatrixRow(model, dice) for model, dice in mean_dice_of(state).items() if dice)
    if not final:
        return ()
    last = max(score.version for score in final.values())
    own = {site: score.mean_dice for site, score in sorted(final.items())}
    if state.charter.mode != ASYM:
        return (MatrixRow(GLOBAL, own),)
    if not state.charter.cross_evaluates:
        return ()
    return tuple(
        MatrixRow(
            model,
            {site: own[site] if site == model else _dice(state, site, last, model) for site in own},
        )
        for model in sorted(state.site_models)
    )


def _dice(state: StudyState, site: str, version: int, model: str) -> float | None:
    score = state.evaluations.get((site, version, layout.score_of(model)))
    return score.mean_dice if score else None


def _distance(score: EvaluationMessage) -> float | None:
    return mean_of_known(c.hd95_mm for c in score.classes.values())
