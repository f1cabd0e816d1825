"""Local model: trained at one site with the same plan, initial weights and budget, alone.

It is the learner's own code with one round of all epochs, so that the exchange of weights is the
only difference to a federated site.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedfs.learner import EvaluationResult, Learner, OnProgress, RoundTask, Tensors
from fedfs.tensors.canonical import weights_sha256


def train_alone(
    learner: Learner,
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    task: RoundTask,
    tensors: Tensors,
    on_progress: OnProgress,
) -> EvaluationResult:
    """Train for all epochs, keep the model, and return nnU-Net's full validation of it.

    Stopped at any moment and called again, it goes on from the learner's last checkpoint.

    Args:
        learner: has its own folder for models, which nobody else writes to.
        plans: nnU-Net plans to train with.
        fingerprint: the fingerprint they were made from, in nnU-Net's format.
        task: one round of all epochs.
        tensors: initial weights.
        on_progress: progress callback.

    Raises:
        SetupError, DatasetError, TrainingError: as the learner does.
    """
    learner.prepare(plans, fingerprint, on_progress)
    trained = learner.train(task, tensors, on_progress).tensors
    final = replace(
        task, weights_sha256=weights_sha256(trained), first_epoch=task.total_epochs, n_epochs=0
    )
    return learner.finish(final, trained, on_progress)
