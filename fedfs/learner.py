"""The seam between the protocol and whatever learns.

A site's loop knows only this interface. :mod:`fedfs.nnunet` implements it with nnU-Net; tests
implement it with arithmetic, so that crashes and races can be tried by the thousand.

Rules:
 * Every method may be killed at any instant and called again with the same arguments; it then
   continues or starts over, and the result counts once.
 * A method that cannot give a true result raises :class:`~fedfs.errors.TrainingError` or
   :class:`~fedfs.errors.DatasetError`. It never returns untrained weights.
 * Tensors are canonical (see :mod:`fedfs.tensors.canonical`): each parameter once, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Tensors = Mapping[str, Array]
"""Canonical tensor name -> float32 array."""


@dataclass(frozen=True)
class Progress:
    """Progress of a long-running step: ``done`` of ``total`` ``unit``s, and a metric or two."""

    step: str
    done: int
    total: int
    unit: str
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
"""Called often; must return quickly and must not raise."""


@dataclass(frozen=True)
class ChannelSketch:
    """Foreground intensities of one channel, in mergeable form.

    The distribution is the equal-weight mixture of the cases that have foreground, as nnU-Net
    draws the same number of foreground voxels from every such case.

    Attributes:
        n_cases: cases with foreground.
        mean: mean of the mixture.
        m2: mean squared deviation of the mixture times ``n_cases``.
        probabilities: ascending knots in [0, 1]; 0 and 1, the smallest and the largest voxel, are
            among them only where a site gives its extremes.
        quantiles: quantile function at the knots, ascending.
        extra: fields of a message that this version does not know.
    """

    n_cases: int
    mean: float
    m2: float
    probabilities: tuple[float, ...]
    quantiles: tuple[float, ...]
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class CaseGeometry:
    """Geometry of one case, axes in the order of nnU-Net's reader, in no particular case order."""

    spacing_mm: tuple[float, ...]
    shape_after_crop: tuple[int, ...]
    relative_size_after_cropping: float


@dataclass(frozen=True)
class SiteFingerprint:
    """A site's dataset fingerprint in mergeable form: no voxel, no case name."""

    n_cases: int
    channels: tuple[ChannelSketch, ...]
    geometry: tuple[CaseGeometry, ...]


@dataclass(frozen=True)
class OwnPlan:
    """A site's own plan; only ``configuration`` and ``tensors`` may leave the site.

    Attributes:
        plans: nnU-Net plans as adopted at the site: dataset name and reader are its own.
        fingerprint: in nnU-Net's ``dataset_fingerprint.json`` form.
        configuration: of the plans, what it takes to build the network and to describe it.
        tensors: own canonical name -> shape.
        n_cases: training cases.
        plans_sha256: hash of ``plans`` as JSON.
    """

    plans: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    configuration: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    n_cases: int
    plans_sha256: str


@dataclass(frozen=True)
class PartialTraining:
    """Only those values of some tensors are trained that an update carries.

    Attributes:
        names: the site's own name of a tensor -> its canonical name in updates.
        fraction: as of the encoding ``randk``, which says which values these are.
    """

    names: Mapping[str, str]
    fraction: float


@dataclass(frozen=True)
class RoundTask:
    """One round's local training, in nnU-Net epochs.

    Attributes:
        version: global version that the training starts from.
        weights_sha256: hash of that version's weights.
        first_epoch: epoch of the federation this round starts with (learning-rate schedule).
        n_epochs: epochs to train.
        total_epochs: epochs of the whole federation.
        iterations_per_epoch: training iterations per epoch.
        val_iterations_per_epoch: validation iterations per epoch and per evaluation.
        proximal_mu: FedProx: ``proximal_mu / 2 * ||w - w_base||^2`` is added to the training loss,
            where ``w_base`` are the weights that the round starts from; 0 adds nothing.
        private: canonical names of tensors that no other site has; they are not held to the base.
        frozen: canonical names of tensors that keep their bits: no gradient, no optimizer, no
            running statistics.
        partial: which values are trained, where it is not all of those that are not frozen.
        learning_rate: that nnU-Net's schedule begins with; None for the trainer's own.
        max_seconds: seconds after which this round's training iterations end at this site, over
            all processes that worked on it, as of their last checkpoints; None for the whole
            budget. At least one iteration is trained, and validation comes on top.
    """

    version: int
    weights_sha256: str
    first_epoch: int
    n_epochs: int
    total_epochs: int
    iterations_per_epoch: int
    val_iterations_per_epoch: int
    proximal_mu: float = 0.0
    private: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    partial: PartialTraining | None = None
    learning_rate: float | None = None
    max_seconds: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """Result of local training.

    Attributes:
        tensors: trained canonical tensors.
        n_training_cases: cases in the training split.
        n_epochs: completed epochs.
        n_iterations: completed training iterations.
        metrics: aggregate numbers only, e.g. ``train_loss``, ``pseudo_dice``.
        seconds: time spent per phase, e.g. ``training``, ``validation``.
    """

    tensors: Tensors
    n_training_cases: int
    n_epochs: int
    n_iterations: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class ClassScore:
    """Overlap of one class or region over all validation voxels or cases.

    ``tp``, ``fp``, ``fn`` are voxel counts; they are 0 where only a mean Dice is known. ``dice`` is
    None where the class occurs in neither prediction nor reference. ``hd95_mm`` is the mean over
    cases of the 95th percentile Hausdorff distance, None where it is not known.
    """

    dice: float | None
    tp: int = 0
    fp: int = 0
    fn: int = 0
    hd95_mm: float | None = None


METRICS = (
    "dice", "nsd", "hd95_mm", "f1", "sensitivity", "false_positives", "volume_ml",
    "reference_volume_ml", "calibration_error",
)  # fmt: skip
"""Metrics of a case and class: overlap; share of both surfaces within a tolerance of each other;
95th percentile of distances between surfaces; F1, sensitivity and number of false positives of
lesions; volumes of prediction and reference; expected calibration error."""

CaseScores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Name of a case -> class -> metric, of :data:`METRICS`, where it is defined."""


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of given weights on the site's own validation cases.

    Attributes:
        by_case: stays at the site; empty where there are no scores of single cases.
        nsd_tolerance_mm: distance between surfaces that ``nsd`` takes for none; None without it.
    """

    n_cases: int
    classes: Mapping[str, ClassScore]
    loss: float | None
    seconds: float
    by_case: CaseScores = field(default_factory=dict)
    nsd_tolerance_mm: float | None = None

    @classmethod
    def unscored(cls, seconds: float = 0.0) -> EvaluationResult:
        """Return the result of a model that could not be scored, or on no case of its own."""
        return cls(n_cases=0, classes={}, loss=None, seconds=seconds)

    @property
    def mean_dice(self) -> float | None:
        """Mean over the classes that occur, as nnU-Net's foreground mean; None if none occurs."""
        known = [score.dice for score in self.classes.values() if score.dice is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class GivenNetwork:
    """A trained nnU-Net that somebody else gives to be scored: somebody else's word.

    Attributes:
        name: it is called by, in messages.
        plans: nnU-Net plans.
        trainer, configuration: nnU-Net's names.
        folds: fold -> safetensors file of its network's tensors; predictions are averaged.
        reference: plans of the first network that is given, whose spacing is the tolerance of
            surface distances for all of them.
    """

    name: str
    plans: Mapping[str, Any]
    trainer: str
    configuration: str
    folds: Mapping[str, Path]
    reference: Mapping[str, Any]


class Learner(Protocol):
    """Interface of whatever learns from a site's own data."""

    def dataset_facts(self) -> Mapping[str, Any]:
        """Describe the local dataset after checking that every file is there.

        Returns:
            ``n_cases``, ``channel_names``, ``labels``, ``regions_class_order`` (or None) and
            ``file_ending``.

        Raises:
            DatasetError: a file is missing or ``dataset.json`` is unusable.
            SetupError: an nnU-Net variable is missing or points nowhere.
        """

    def versions(self) -> Mapping[str, str]:
        """Return versions of the software that decides results (nnunetv2, torch, ...)."""

    def patients(self) -> Mapping[str, str]:
        """Return case -> patient, as far as this site says so; another is a patient of its own.

        Raises:
            DatasetError: the site says it in a way that cannot be used.
        """

    def fingerprint(self, on_progress: OnProgress) -> SiteFingerprint:
        """Read every training case once and return the fingerprint."""

    def plan(self, on_progress: OnProgress, *, is_published: bool = False) -> OwnPlan:
        """Plan for this site alone, from its own fingerprint; again gives the same, at once.

        Args:
            on_progress: progress callback.
            is_published: the study knows the plan, so that cases which were added since are left
                out.

        Raises:
            SetupError: this learner was not told how to plan.
            DatasetError: a channel has no foreground in any case.
        """

    def initial_weights(self) -> Tensors:
        """Return the initial weights of the network of :meth:`plan`: pretrained, or by seed."""

    def prepare(
        self, plans: Mapping[str, Any], fingerprint: Mapping[str, Any], on_progress: OnProgress
    ) -> None:
        """Adopt the federated plan and preprocess; a no-op where that is done already.

        Args:
            plans: nnU-Net plans as the aggregator published them.
            fingerprint: the federated fingerprint in nnU-Net's format.
            on_progress: progress callback.
        """

    def evaluate(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """Score a global version on own validation cases (nnU-Net's pseudo Dice)."""

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """Train the round's budget starting from ``tensors``."""

    def finish(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """Store the final model where nnU-Net would, and run nnU-Net's full validation."""

    def score(
        self, plans: Mapping[str, Any], tensors: Path, on_progress: OnProgress
    ) -> EvaluationResult:
        """Predict own validation cases, as ``nnUNetv2_predict`` does, with another site's network.

        Args:
            plans: of that site; somebody else's word.
            tensors: safetensors file of the network's tensors; likewise.
            on_progress: progress callback.

        Raises:
            RejectedError: plans or tensors are refused.
        """

    def score_ensemble(
        self, members: Mapping[str, Path], on_progress: OnProgress
    ) -> EvaluationResult:
        """Predict own validation cases with the mean of the probabilities of several networks.

        Args:
            members: site -> safetensors file of its network, of the plan that is prepared for;
                somebody else's word.
            on_progress: progress callback.

        Raises:
            RejectedError: tensors are refused.
        """

    def score_given(self, network: GivenNetwork, on_progress: OnProgress) -> EvaluationResult:
        """Predict all own cases, as ``nnUNetv2_predict`` does, with a network from elsewhere.

        Raises:
            RejectedError: plans or tensors are refused.
            SetupError: nnunetv2 has no such trainer, or not for this host.
        """

    def close(self) -> None:
        """Release workers and memory; work that follows takes them again."""
