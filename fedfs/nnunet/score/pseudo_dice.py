"""Scores of given weights by nnU-Net's pseudo Dice.

Rules:
 * Pseudo Dice is nnU-Net's: random patches of the validation cases, voxels summed over all of them.
 * An evaluation leaves no trace in training: nnU-Net's log, the optimizer and the random streams of
   this process are as before. Only the weights change, and a round replaces them anyway.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedfs.errors import TrainingError
from fedfs.learner import ClassScore, EvaluationResult, OnProgress, Progress
from fedfs.nnunet.score.summary import class_names
from fedfs.nnunet.train.session import Session


def pseudo_dice(session: Session, on_progress: OnProgress) -> EvaluationResult:
    """Score the network's present weights on random patches of the validation cases.

    Unscored if these cases are trained on.

    Raises:
        TrainingError: the loss is not finite.
    """
    import torch

    if not session.can_score:
        return EvaluationResult.unscored()
    trainer = session.trainer
    names = class_names(trainer.dataset_json)
    counts = np.zeros((3, len(names)))
    losses = []
    n_iterations = trainer.num_val_iterations_per_epoch
    began = session.clock()
    with _random_streams_kept(), torch.no_grad():
        trainer.on_validation_epoch_start()
        for iteration in range(n_iterations):
            output = trainer.validation_step(next(trainer.dataloader_val))
            counts += [output["tp_hard"], output["fp_hard"], output["fn_hard"]]
            losses.append(float(output["loss"]))
            on_progress(Progress("evaluate", iteration + 1, n_iterations, "iteration"))
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise TrainingError(
            "The validation loss is not finite.",
            kind="not-finite",
            hint="look for extreme intensities in the images, or lower the learning rate",
        )
    return EvaluationResult(
        n_cases=session.n_validation_cases,
        classes={
            name: ClassScore(_dice(*column), *(int(count) for count in column))
            for name, column in zip(names, counts.T, strict=True)
        },
        loss=loss,
        seconds=session.clock() - began,
    )


def _dice(tp: float, fp: float, fn: float) -> float | None:
    volume = 2 * tp + fp + fn
    return float(2 * tp / volume) if volume else None


@contextmanager
def _random_streams_kept() -> Iterator[None]:
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  the loaders draw from the global stream
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  same
        torch.set_rng_state(states[2])
