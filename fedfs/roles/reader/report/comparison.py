"""Models beside each other: federated against local, and each model at each site. Pure.

A number that is not known is None. What is compared at a site was scored on the same cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedfs.protocol import layout
from fedfs.protocol.messages import ASYM, EvaluationMessage
from fedfs.protocol.state import StudyState
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

    Args:
        state: accepted messages.
        final: site -> full validation of the last version; these sites are the columns.
    """
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
