"""What a site's learner is told: where, what and how to train, and how to plan for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.nnunet.system.environment import NnUNetPaths


@dataclass(frozen=True, kw_only=True)
class Planning:
    """How a site plans for itself; names and meanings are nnU-Net's.

    Attributes:
        dataset_json: of the study, with ``label_order`` where there are regions.
        dataset_name: the study's ``DatasetXXX_NAME``.
        planner_options: attributes set on the planner, see
            :data:`~fedfs.nnunet.allowed.names.PLANNER_OPTIONS`.
        seed: of torch's random numbers while the network is made.
        pretrained: safetensors of canonical tensors, under the names of any network, to start from.
        alignment: which of them are this network's, see :mod:`fedfs.aggregation.alignment`.
    """

    dataset_json: Mapping[str, Any]
    dataset_name: str
    seed: int
    planner: str = "ExperimentPlanner"
    plans_name: str = "nnUNetPlans"
    gpu_memory_target_gb: float | None = None
    target_spacing: tuple[float, ...] | None = None
    planner_options: Mapping[str, float] = field(default_factory=dict)
    pretrained: Path | None = None
    alignment: str = "resolution"


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """What a site's learner needs to know.

    Attributes:
        paths: nnU-Net's folders.
        dataset: ``DatasetXXX_NAME`` or its number.
        fold: ``all`` or a number.
        device: ``cpu``, ``cuda``, ``mps``; None for the best there is.
        state_dir: fedfs's own folder for this study and site.
        num_gpus: more than one trains each round in so many processes.
        num_processes: for fingerprint, preprocessing and nnU-Net's pools.
        checkpoint_interval_s: shortest time between two checkpoints within a round.
        plot_interval_s: shortest time between two drawings of nnU-Net's ``progress.png``.
        full_validation: run nnU-Net's validation of whole cases at the end.
        planning: how to plan for this site alone; None where the aggregator plans for all.
        allowed_trainers: not nnunetv2's own, but allowed by this host's operator.
        next_stages: configurations that will need this one's segmentations (cascade): their data
            have to be there when the model is validated.
        save_probabilities: also keep those of the final validation, for ensembles.
        broken_list: file in which cases are kept that this site goes on without; None for none.
        skip_broken: go on without cases that cannot be used; else stop at the first.
    """

    paths: NnUNetPaths
    dataset: str
    configuration: str
    trainer: str
    fold: str
    state_dir: Path
    device: str | None = None
    num_gpus: int = 1
    num_processes: int = 8
    checkpoint_interval_s: float = 60.0
    plot_interval_s: float = 60.0
    full_validation: bool = True
    planning: Planning | None = None
    allowed_trainers: tuple[str, ...] = ()
    next_stages: tuple[str, ...] = ()
    save_probabilities: bool = False
    broken_list: Path | None = None
    skip_broken: bool = False

    @property
    def preparing_lock(self) -> Path:
        """File that is locked while data are prepared, common to all tracks of a site."""
        return (self.broken_list or self.state_dir).with_name("preparing.lock")


def settings_to_json(settings: LearnerSettings) -> dict[str, Any]:
    """Return settings as JSON values, for one of the processes of a round.

    Such a process trains on one GPU with a plan that has been made: ``num_gpus`` is 1, and
    ``planning`` is left out.
    """
    fields = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(settings).items()
    }
    paths = {name: str(path) for name, path in vars(settings.paths).items()}
    return {**fields, "paths": paths, "planning": None, "num_gpus": 1}


def settings_from_json(fields: Mapping[str, Any]) -> LearnerSettings:
    """Return the settings that :func:`settings_to_json` wrote down."""
    lists = {n: tuple(v) for n, v in fields.items() if isinstance(v, list)}
    broken_list = fields["broken_list"]
    return LearnerSettings(
        **{
            **fields,
            **lists,
            "paths": NnUNetPaths(**{name: Path(path) for name, path in fields["paths"].items()}),
            "state_dir": Path(fields["state_dir"]),
            "broken_list": None if broken_list is None else Path(broken_list),
        }
    )
