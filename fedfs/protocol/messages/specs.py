"""Parts of the charter that say what is trained: dataset, nnU-Net settings, tracks, rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfs.protocol.messages.base import Extra
from fedfs.protocol.values import (
    ClassName,
    Count,
    DatasetName,
    Ending,
    FileName,
    Fold,
    Hash,
    HashOrNone,
    LearningRate,
    Positive,
    Share,
    StudyId,
    TrackName,
    Version,
)

FFE, ASYM = TRAINING_MODES = ("ffe", "asym")
EVALUATE = "evaluate"
MODES = (*TRAINING_MODES, EVALUATE)
"""One plan for all sites; every site plans for itself and shares the tensors that fit; or nothing
is trained, and the sites score given models."""

NORM = "norm"
KEPT_LOCAL = ("", NORM)
"""Tensors of which every site keeps values of its own: none, or those of normalisation layers."""

MEAN = "mean"
LOCAL_EXPORTS = ("", MEAN)
"""They stay at the site; or they travel too, and versions have their mean, for exports alone."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Channels and labels that every site's ``dataset.json`` has to agree with, in nnU-Net's names.

    ``label_order`` keeps the order of the labels, which matters to regions and which JSON objects
    do not promise to keep.
    """

    name: DatasetName
    channel_names: Mapping[str, str]
    labels: Mapping[str, Any]
    label_order: tuple[str, ...] = ()
    regions_class_order: tuple[int, ...] | None = None
    file_ending: Ending = ".nii.gz"
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NnUNetSpec:
    """nnU-Net settings that all tracks have in common; names and meanings are nnU-Net's.

    Attributes:
        planner_options: attributes set on nnU-Net's planner before it plans.
        versions: software the study was set up with (``nnunetv2``, ``torch``).
    """

    planner: ClassName
    plans_name: FileName
    trainer: ClassName
    gpu_memory_target_gb: float | None = None
    target_spacing: tuple[float, ...] | None = None
    planner_options: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Track:
    """A model of the study that advances by itself: one configuration and fold.

    Attributes:
        name: in keys.
        after: tracks whose final models a site needs before it begins with this one.
    """

    name: TrackName
    configuration: FileName
    fold: Fold
    after: tuple[TrackName, ...] = ()
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds, and the local budget of each in nnU-Net epochs.

    Attributes:
        local_minutes: minutes after which a site ends a round's training with what it has; None
            if it may take as long as it needs.
        learning_rate: that the trainer's schedule begins with; None for the trainer's own.
    """

    rounds: int
    local_epochs: int
    iterations_per_epoch: int
    val_iterations_per_epoch: int
    seed: int
    local_minutes: float | None = None
    learning_rate: LearningRate | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AsymSpec:
    """Sharing of tensors between unlike networks; see :mod:`fedfs.aggregation.alignment`.

    Attributes:
        alignment: which tensors of unlike networks are the same.
        sharing: which of these are shared.
        min_coverage: smallest share of its parameters, 0 to 1, that every site must share.
        cross_evaluation: in the end each site publishes its whole model, and scores the others'.
    """

    alignment: str
    sharing: str
    min_coverage: float
    cross_evaluation: bool = False
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SecureSums:
    """Rules of sums that show no single update, and the helper who makes these sums possible.

    An amendment changes what is about the helper, and nothing else.

    Attributes:
        min_sites: fewest sites of a sum; in the mode ``asym``, of a sum of each tensor.
        max_share: largest share of a sum, 0 to 1, that the coefficient of one site may have.
        clip_norm: largest L2 norm of an update, to which its site scales it down; None for any.
        scores: scores are masked, too, and only their totals over sites can be seen.
        helper_number: 1 for the first helper, 0 before there is one. Another helper has the next
            number; new keys of the same one change nothing.
        helper_key: public key of the helper; "" before there is one.
        helper_encryption_key: its public key of age, to which sites encrypt the seeds of masks.
        helper_from_versions: track -> version from which on sums are signed by that key.
        given_up: track -> version whose sum nobody waits for any more.
    """

    min_sites: Count = 3
    max_share: Share = 0.8
    clip_norm: Positive | None = None
    scores: bool = False
    helper_number: Count = 0
    helper_key: str = ""
    helper_encryption_key: str = ""
    helper_from_versions: Mapping[TrackName, Version] = field(default_factory=dict)
    given_up: Mapping[TrackName, Version] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainOnly:
    """The part of a network that a study trains; all else stays as the charter's weights have it.

    Attributes:
        patterns: of names of tensors, see :mod:`fedfs.aggregation.trained_tensors`.
        frozen_sha256: hash of the tensors that no pattern names, of the charter's ``pretrained``.
        n_frozen: values that they have.
        begins_sha256: in a study that continues another, hash of the part with which it begins;
            "" in others, whose segmentation layers are drawn.
    """

    patterns: tuple[str, ...]
    frozen_sha256: Hash
    n_frozen: Count
    begins_sha256: HashOrNone = ""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The finished study that a study goes on from.

    Attributes:
        study: its id.
        version: its last version.
        weights_sha256: hash of the weights of that version, which are those of version 0; also of
            what it left frozen, if it trained a part of its network.
        plans: its nnU-Net plans, under the names that they have in the study that goes on; empty
            where they are encrypted.
        versions: packages that made them.
        sealed: ``plans``, where they are encrypted.
    """

    study: StudyId
    version: Version
    weights_sha256: Hash
    plans: Mapping[str, Any]
    versions: Mapping[str, str]
    sealed: str = ""
    extra: Extra = field(default_factory=dict)
