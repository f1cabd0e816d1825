"""Result of a membership test: models, and how well attacks on each tell cases apart. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from fedfs.aggregation.membership import (
    FPR,
    Fits,
    Separation,
    attack,
    separate,
    together,
)
from fedfs.nnunet.membership.inversion import Inversion
from fedfs.roles.site.membership.models import TRAINED, UPDATE, VERSION, Target

_READERS = {
    UPDATE: "Who reads this site's updates",
    VERSION: "Who reads the global versions",
}


@dataclass(frozen=True, kw_only=True)
class AttackedModel:
    """Separation of cases that were trained on from others, by attacks on a model.

    Attributes:
        kind: see :data:`fedfs.roles.site.membership.models.KINDS`.
        version: its number; None for all models of that kind together.
        dice_trained, dice_others: means over the cases of each kind; None of several models.
        attacks: see :data:`fedfs.aggregation.membership.ATTACKS`.
    """

    kind: str
    version: int | None
    dice_trained: float | None = None
    dice_others: float | None = None
    attacks: Mapping[str, Separation]

    @property
    def is_untrained(self) -> bool:
        """True for version 0, which tells nothing."""
        return (self.kind, self.version) == (VERSION, 0)


@dataclass(frozen=True, kw_only=True)
class MembershipAudit:
    """Result of a site's membership test on one track.

    Attributes:
        track: of the study.
        n_trained, n_others: cases that were trained on, and kept back.
        n_references: models that were trained for comparison.
        fpr_bound: see :func:`fedfs.aggregation.membership.fpr_bound`.
        models: in the order in which they were made; then all of a kind together.
        inversions: a patch of one case, found again by its gradient, at version 0 and the newest.
        notes: sentences on what could not be tested.
    """

    track: str
    n_trained: int
    n_others: int
    n_references: int
    fpr_bound: float
    models: Sequence[AttackedModel]
    inversions: Sequence[Inversion] = ()
    notes: Sequence[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Return what the numbers say, and what they cannot say."""
        text = []
        for kind, reader in _READERS.items():
            of_kind = [m for m in self.models if m.kind == kind and not m.is_untrained]
            if of_kind:  # all of them together are the last
                text.append(_sentence(of_kind[-1], reader))
        text.append(
            f"None of {self.n_others} cases proves no smaller rate of false positives than "
            f"{self.fpr_bound:.0%}."
            if self.n_others < 1 / FPR
            else f"In truth the rate of false positives may be {self.fpr_bound:.1%}."
        )
        return text


def model_name(model: AttackedModel) -> str:
    """Return the name of a row."""
    if model.version is None:
        return f"these {model.kind}s together"
    return {
        VERSION: f"version {model.version}",
        UPDATE: f"update from version {model.version}",
        TRAINED: f"trained from version {model.version}",
    }.get(model.kind, f"{model.kind} model")


def _sentence(model: AttackedModel, reader: str) -> str:
    name, best = max(model.attacks.items(), key=lambda one: one[1].auc)
    interval = ""
    if best.auc_low is not None and best.auc_high is not None:
        interval = f" ({best.auc_low:.0%} to {best.auc_high:.0%})"
    return (
        f"{reader} finds the case that was trained on in {best.auc:.0%}{interval} of pairs, where "
        f"guessing finds it in 50 %: by the {name}, the best of {len(model.attacks)} attacks on "
        f"{model_name(model)}."
    )


def attack_all(
    fits: Mapping[Target, Fits],
    versions: Collection[int],
    *,
    trained: Collection[str],
    references: Sequence[Fits],
    patients: Mapping[str, str],
    seed: int,
) -> list[AttackedModel]:
    """Return the models of these versions, and then all of a kind together.

    Args:
        fits: of all models, and of those that they are compared with.
        versions: to attack; empty for all.
        trained: cases that were trained on.
        references: see :func:`fedfs.aggregation.membership.attack`.
        patients: case -> patient; a case that is not named is a patient of its own.
        seed: of the intervals.
    """
    by_place = {(target.kind, target.version): found for target, found in fits.items()}
    scores, models = {}, []

    def separations(found: Mapping[str, Mapping[str, float]]) -> dict[str, Separation]:
        return {name: separate(one, trained, patients, seed) for name, one in found.items()}

    for target, found in fits.items():
        if versions and target.version not in versions:
            continue
        kind, version = target.kind, target.version
        before = following = None
        if kind == VERSION:
            before = by_place.get((VERSION, version - 1))
        elif kind in (UPDATE, TRAINED):
            before = by_place.get((VERSION, version))
            following = by_place.get((VERSION, version + 1))
        scores[target] = attack(found, before=before, following=following, references=references)
        models.append(
            AttackedModel(
                kind=kind,
                version=version,
                dice_trained=_mean_dice(found, trained, is_trained=True),
                dice_others=_mean_dice(found, trained, is_trained=False),
                attacks=separations(scores[target]),
            )
        )
    for kind in (UPDATE, VERSION):
        of_kind = [s for t, s in scores.items() if t.kind == kind and (t.version or kind == UPDATE)]
        if len(of_kind) > 1:
            attacks = separations(together(of_kind))
            models.append(AttackedModel(kind=kind, version=None, attacks=attacks))
    return models


def _mean_dice(fits: Fits, trained: Collection[str], *, is_trained: bool) -> float | None:
    known = [
        fit.dice
        for case, fit in fits.items()
        if fit.dice is not None and (case in trained) == is_trained
    ]
    return fmean(known) if known else None
