"""Settings of a site's learner: folders, model and host, and the site's own planning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings, NnUNetPaths


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Settings of a trainer: names as ``nnUNetv2_train`` takes them.

    Attributes:
        fold: ``all`` or a number.
        host: where the trainer is to run: its hardware and software.
    """

    trainer: str
    configuration: str
    fold: str
    host: HostSettings = DEFAULT_HOST


@dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """Settings of nnU-Net's planner; names and meanings are nnU-Net's.

    Attributes:
        dataset_json: ``channel_names``, ``labels``, ``file_ending``, ``regions_class_order`` of the
            study, and ``label_order`` where there are regions.
        dataset_name: the study's ``DatasetXXX_NAME``.
        planner_options: attributes set on the planner, see
            :data:`~fedfs.nnunet.allowed.names.PLANNER_OPTIONS`.
    """

    dataset_json: Mapping[str, Any]
    dataset_name: str
    planner: str = "ExperimentPlanner"
    plans_name: str = "nnUNetPlans"
    gpu_memory_target_gb: float | None = None
    target_spacing: tuple[float, ...] | None = None
    planner_options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Planning(PlannerSettings):
    """Settings of a site's own planning.

    Attributes:
        seed: of torch's random numbers while the network is made.
        pretrained: safetensors of canonical tensors, under the names of any network, to start from.
        alignment: which of them are this network's, see :mod:`fedfs.aggregation.alignment`.
    """

    seed: int
    pretrained: Path | None = None
    alignment: str = "resolution"


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of the metrics of single cases.

    Attributes:
        nsd_tolerance_mm: of the surface distance of NSD; None for one voxel of the plan, see
            :func:`~fedfs.nnunet.score.case_metrics.nsd_tolerance_mm`.
        calibration: save the probabilities of predictions for as long as it takes to compute their
            calibration error.
    """

    nsd_tolerance_mm: float | None = None
    calibration: bool = False

    def __post_init__(self) -> None:
        if self.nsd_tolerance_mm is not None and not 0 < self.nsd_tolerance_mm < math.inf:
            raise UserError(
                f"A tolerance of {self.nsd_tolerance_mm:g} mm between surfaces is not above 0.",
                hint="leave it out for one voxel of the plan",
            )


DEFAULT_SCORES = ScoreOptions()


@dataclass(frozen=True, kw_only=True)
class LearnerSettings(TrainerSettings):
    """Settings of a site's learner.

    Attributes:
        paths: nnU-Net's folders.
        dataset: ``DatasetXXX_NAME`` or its number.
        state_dir: fedfs's own folder for this study and site.
        checkpoint_interval_s: shortest time between two checkpoints within a round.
        plot_interval_s: shortest time between two drawings of nnU-Net's ``progress.png``, and
            before the first one. That after the last epoch is always made.
        full_validation: run nnU-Net's validation of whole cases at the end; else the final model
            has no scores.
        planning: how to plan for this site alone; None where the aggregator plans for all.
        next_stages: configurations that will need this one's segmentations (cascade): their data
            have to be there when the model is validated.
        save_probabilities: also keep those of the final validation, for ensembles, as
            ``nnUNetv2_train --npz`` does.
        broken_list: file in which cases are kept that this site goes on without; None for one in
            ``state_dir``.
        announced_list: file in which the cases are kept that the study knows of; likewise.
        scores: options of the metrics of single cases.
    """

    paths: NnUNetPaths
    dataset: str
    state_dir: Path
    checkpoint_interval_s: float = 60.0
    plot_interval_s: float = 60.0
    full_validation: bool = True
    planning: Planning | None = None
    next_stages: tuple[str, ...] = ()
    save_probabilities: bool = False
    broken_list: Path | None = None
    announced_list: Path | None = None
    scores: ScoreOptions = DEFAULT_SCORES

    @property
    def preparing_lock(self) -> Path:
        """File that is locked while data are prepared, common to all tracks of a site."""
        return (self.broken_list or self.state_dir).with_name("preparing.lock")
