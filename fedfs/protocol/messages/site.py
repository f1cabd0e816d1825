"""Messages that a site signs: join request, fingerprint, plan, updates, attendance, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedfs.errors import MalformedError
from fedfs.learner import CaseGeometry, ChannelSketch, ClassScore
from fedfs.protocol import layout
from fedfs.protocol.messages.base import Message, PayloadRef
from fedfs.protocol.messages.scores import ChosenModel, DiceSum, PairedDifference, Summaries
from fedfs.protocol.values import (
    COUNT,
    DICE,
    DISTANCE_MM,
    Count,
    Dice,
    Hash,
    Positive,
    Seconds,
    SiteName,
    TrackName,
    VariantName,
    Version,
)

SUPPRESSED = "suppressed by the site's policy"
"""Said wherever a site does not publish what it has: it is not the same as zero."""


@dataclass(frozen=True, kw_only=True)
class JoinRequest(Message):
    """A site asks to be admitted, or to go on with another key; signed by the key it presents.

    Attributes:
        endorsement: base64 signature by the site's key before, which names this one as the next;
            "" if there was none, or it is lost.
        encryption_key: public key of age, to which others encrypt.
    """

    TYPE: ClassVar[str] = "join"
    site: SiteName
    public_key: str
    n_cases: Count
    file_ending: str
    versions: Mapping[str, str]
    endorsement: str = ""
    encryption_key: str = ""


@dataclass(frozen=True, kw_only=True)
class FingerprintMessage(Message):
    """A site's dataset fingerprint in mergeable form."""

    TYPE: ClassVar[str] = "fingerprint"
    HIDDEN: ClassVar[Mapping[str, Any]] = {"channels": [], "geometry": []}
    site: SiteName
    n_cases: Count
    channels: tuple[ChannelSketch, ...]
    geometry: tuple[CaseGeometry, ...]


@dataclass(frozen=True, kw_only=True)
class SitePlan(Message):
    """The plan of a site that plans for itself, as far as others need it (mode ``asym``).

    Attributes:
        configuration: of its nnU-Net plans, what it takes to build the network and to describe it.
        tensors: the site's own name of each of its network's tensors -> shape.
        plans_sha256: hash of the whole plans, by which the site knows its own again.
    """

    TYPE: ClassVar[str] = "site-plan"
    HIDDEN: ClassVar[Mapping[str, Any]] = {"configuration": {}, "tensors": {}}
    site: SiteName
    n_cases: Count
    configuration: Mapping[str, Any]
    tensors: Mapping[str, tuple[Count, ...]]
    plans_sha256: Hash
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UpdateManifest(Message):
    """An update: the tensors that a site trained from ``base_version``.

    Attributes:
        base_weights_sha256: hash of the weights that training started from.
        n_planned_iterations: the round's full budget; a site that ran out of time did fewer.
        metrics: aggregates of the local training.
        seconds: time per phase.
        seed: with secure sums, base64 of the seed of the payload's mask, encrypted for the helper;
            "" without.
        seed_for: public key of age that the seed is encrypted to.
    """

    TYPE: ClassVar[str] = "update"
    site: SiteName
    base_version: Version
    base_weights_sha256: Hash
    payload: PayloadRef
    encoding: str
    n_training_cases: Count
    n_epochs: Count
    n_iterations: Count
    n_planned_iterations: Count
    metrics: Mapping[str, float]
    seconds: Mapping[str, Seconds]
    seed: str = ""
    seed_for: str = ""


@dataclass(frozen=True, kw_only=True)
class Attendance(Message):
    """A site pauses, leaves or comes back; its newest attendance counts. At first it is present.

    Attributes:
        number: 1 for the first, increasing.
        status: ``present``, ``paused`` or ``left``.
        reason: for people.
    """

    TYPE: ClassVar[str] = "attendance"
    site: SiteName
    number: Count
    status: str
    reason: str

    @property
    def text(self) -> str:
        """The status, and the reason if there is one."""
        return f"{self.status}: {self.reason}" if self.reason else self.status

    @classmethod
    def wanted(cls, site: str, status: str = "present", reason: str = "") -> Attendance:
        """Return what a site wants, not numbered or published yet."""
        return cls.numbered(site, 0, status=status, reason=reason)

    @classmethod
    def numbered(cls, site: str, number: int, *, status: str, reason: str) -> Attendance:
        """Return a site's ``number``-th attendance."""
        key = layout.attendance(site, number)
        return cls(key=key, site=site, number=number, status=status, reason=reason)


@dataclass(frozen=True, kw_only=True)
class EvaluationMessage(Message):
    """Scores at one site: of a global version after aggregation, or of a model to compare it with.

    ``variant`` is one of

     * ``pseudo``: nnU-Net's pseudo Dice on random patches of the version.
     * ``full``: nnU-Net's full validation of the version: mean over cases; tp, fp and fn are 0.
     * ``local``: the same of a model that this site trained on its own data alone, with ``budget``
       times the iterations of all rounds up to ``version``.
     * ``personal``: of the version, fine-tuned on this site's data with ``budget`` times those.
     * ``average``, ``ema``: of the mean of the last versions, and their exponential average.
     * ``ensemble``: of the mean of the probabilities of all sites' models after one round.
     * ``of-<name>``: nnU-Net's prediction of whole validation cases by another site's model, or
       by one that the charter gives.

    Attributes:
        budget: training iterations at this site, in those of the federation.
        metrics: distribution over cases of the mean over classes; empty for ``pseudo``.
        metrics_by_class: class -> distribution over cases.
        against: variant that was scored before on the same cases -> metric -> this one minus that.
        chosen: among the variants that this site has scored so far.
        nsd_tolerance_mm: of the metric ``nsd``, see docs/metrics.md; None without it.
        cases: scores of single cases, as far as the site publishes them: metric -> mean over
            classes. In the same order in all of its evaluations, and without names.
        suppressed: the site has scores, and none leaves it; there are none in here.
        masked: with secure scores, base64 of the site's numbers under their mask
            (:mod:`fedfs.aggregation.score_totals`), for the aggregator only; the fields above are
            then empty.
        seed, seed_for: of that mask, as of :class:`UpdateManifest`.
    """

    TYPE: ClassVar[str] = "evaluation"
    HIDDEN: ClassVar[Mapping[str, Any]] = {"masked": ""}
    site: SiteName
    version: Version
    variant: VariantName
    n_cases: Count
    mean_dice: Dice | None
    classes: Mapping[str, ClassScore]
    loss: float | None
    seconds: Seconds
    budget: Positive = 1.0
    metrics: Summaries = field(default_factory=dict)
    metrics_by_class: Mapping[str, Summaries] = field(default_factory=dict)
    against: Mapping[VariantName, Mapping[str, PairedDifference]] = field(default_factory=dict)
    chosen: ChosenModel | None = None
    nsd_tolerance_mm: Positive | None = None
    cases: tuple[Mapping[str, float], ...] = ()
    suppressed: bool = False
    masked: str = ""
    seed: str = ""
    seed_for: str = ""

    @property
    def is_masked(self) -> bool:
        """Its scores can be seen in a total over sites only."""
        return bool(self.seed)

    def check(self) -> None:
        """See :meth:`Message.check`."""
        for name, score in self.classes.items():
            counts = score.tp, score.fp, score.fn
            if (
                (score.dice is not None and score.dice not in DICE)
                or any(count not in COUNT for count in counts)
                or (score.hd95_mm is not None and score.hd95_mm not in DISTANCE_MM)
            ):
                raise MalformedError("is impossible", about=f"the score of class {name!r}")
        for summaries in (self.metrics, *self.metrics_by_class.values()):
            for metric, summary in summaries.items():
                summary.check(f"the distribution of {metric!r}")
        if len(self.cases) > self.n_cases:
            raise MalformedError("has rows of more cases than there are")
        for variant, differences in self.against.items():
            for metric, difference in differences.items():
                difference.check(f"the difference of {metric!r} to {variant!r}")
        if self.chosen is not None:
            self.chosen.check("the chosen model")

    def without_scores(self, *, suppressed: bool) -> EvaluationMessage:
        """Return the same evaluation with nothing in it but what was scored."""
        return EvaluationMessage(
            key=self.key,
            study=self.study,
            created_at=self.created_at,
            site=self.site,
            version=self.version,
            variant=self.variant,
            n_cases=0,
            mean_dice=None,
            classes={},
            loss=None,
            seconds=0.0,
            budget=self.budget,
            suppressed=suppressed,
        )


@dataclass(frozen=True, kw_only=True)
class CrossValidation(Message):
    """Scores of configurations, ensembles and postprocessing on a site's validation cases.

    Attributes:
        n_cases: that were scored: those that a fold predicted and did not train on.
        weights: track -> hash of the weights of its last version, which was scored.
        scores: configuration or ensemble -> steps of postprocessing -> class -> sum of Dice; see
            :mod:`fedfs.aggregation.best_configuration`.
        suppressed: the site has scores, and its policy lets none leave; there are none in here.
    """

    TYPE: ClassVar[str] = "cross-validation"
    site: SiteName
    n_cases: Count
    weights: Mapping[TrackName, Hash]
    scores: Mapping[str, Mapping[str, Mapping[str, DiceSum]]]
    suppressed: bool = False

    def check(self) -> None:
        """See :meth:`Message.check`: no more cases than there are, and none better than perfect."""
        for by_steps in self.scores.values():
            for classes in by_steps.values():
                for name, one in classes.items():
                    if not 0 <= one.n <= self.n_cases or not 0 <= one.total <= one.n:
                        raise MalformedError(f"has an impossible sum of Dice for class {name!r}")


@dataclass(frozen=True, kw_only=True)
class SiteModel(Message):
    """A site's whole network at the last version, for other sites to score (mode ``asym``).

    Attributes:
        payload: all of its tensors, by the site's own names.
        plans: its nnU-Net plans, which predicting takes; names of dataset and reader are the
            study's.
    """

    TYPE: ClassVar[str] = "site-model"
    HIDDEN: ClassVar[Mapping[str, Any]] = {"plans": {}}
    site: SiteName
    version: Version
    payload: PayloadRef
    plans: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FailureMessage(Message):
    """Something failed at a site; its details stay there.

    ``kind`` is one of the kinds of :class:`~fedfs.errors.TrainingError`; ``message`` a sentence
    that names no case and no path.
    """

    TYPE: ClassVar[str] = "failure"
    site: SiteName
    version: Version
    step: str
    kind: str
    message: str
