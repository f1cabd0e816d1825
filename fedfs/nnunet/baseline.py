"""What a site reaches alone: the same training on its own data, with no federation.

See :mod:`fedfs.roles.site.local_model`. Here it runs in a process of its own, with folders of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.learner import OnProgress, RoundTask
from fedfs.nnunet.nnunet_learner import LearnerSettings, NnUNetLearner
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.roles.site.local_model import train_alone
from fedfs.tensors.canonical import TensorFile, weights_sha256


@dataclass(frozen=True, kw_only=True)
class LocalRequest:
    """A plain training of one site.

    Attributes:
        raw, preprocessed, results: nnU-Net's folders.
        dataset: ``DatasetXXX_NAME`` or its number.
        plans: the plan to train with.
        fingerprint: the fingerprint it was made from.
        tensors: safetensors file of the initial weights.
        state_dir: for what has to survive a kill.
    """

    raw: str
    preprocessed: str
    results: str
    dataset: str
    plans: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    tensors: str
    configuration: str
    trainer: str
    fold: str
    state_dir: str
    epochs: int
    iterations_per_epoch: int
    val_iterations_per_epoch: int
    device: str | None = None
    num_processes: int = 1


def train_local(request: LocalRequest, on_progress: OnProgress) -> Path:
    """Train for all epochs and return the model folder under ``results``.

    Raises:
        SetupError, TrainingError: as the learner does.
    """
    learner = NnUNetLearner(
        LearnerSettings(
            paths=NnUNetPaths(Path(request.raw), Path(request.preprocessed), Path(request.results)),
            dataset=request.dataset,
            configuration=request.configuration,
            trainer=request.trainer,
            fold=request.fold,
            state_dir=Path(request.state_dir),
            device=request.device,
            num_processes=request.num_processes,
            full_validation=False,
        )
    )
    try:
        with TensorFile(Path(request.tensors)) as initial:
            task = RoundTask(
                version=0,
                weights_sha256=weights_sha256(initial),
                first_epoch=0,
                n_epochs=request.epochs,
                total_epochs=request.epochs,
                iterations_per_epoch=request.iterations_per_epoch,
                val_iterations_per_epoch=request.val_iterations_per_epoch,
            )
            train_alone(learner, request.plans, request.fingerprint, task, initial, on_progress)
        return learner.model_folder()
    finally:
        learner.close()
