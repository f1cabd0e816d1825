"""Scores of given weights: nnU-Net's pseudo Dice, and its full validation.

Rules:
 * Pseudo Dice is nnU-Net's: random patches of the validation cases, voxels summed over all of them.
 * An evaluation leaves no trace in training: nnU-Net's log, the optimizer and the random streams of
   this process are as before. Only the weights change, and a round replaces them anyway.
 * Classes are reported under the names that ``dataset.json`` gives them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.errors import TrainingError
from fedfs.learner import ClassScore, EvaluationResult, Progress, Report
from fedfs.nnunet.dataset import has_regions, read_json
from fedfs.nnunet.rounds import Session


def pseudo_dice(session: Session, report: Report) -> EvaluationResult:
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
            report(Progress("evaluate", iteration + 1, n_iterations, "iteration"))
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise TrainingError("the validation loss is not finite", kind="not-finite")
    return EvaluationResult(
        n_cases=session.n_validation_cases,
        classes={
            name: ClassScore(_dice(*column), *(int(count) for count in column))
            for name, column in zip(names, counts.T, strict=True)
        },
        loss=loss,
        seconds=session.clock() - began,
    )


def read_summary(
    path: Path,
    dataset_json: Mapping[str, Any],
    *,
    seconds: float,
    distances_mm: Mapping[str, float] | None = None,
) -> EvaluationResult:
    """Return what nnU-Net's ``summary.json`` says, classes by name: mean Dice over the cases.

    Args:
        path: the file.
        dataset_json: names of the classes.
        seconds: that validation took.
        distances_mm: class -> mean HD95, where known.
    """
    summary = read_json(path)
    classes = {}
    for name, key in class_names(dataset_json).items():
        dice = float(summary["mean"][key]["Dice"])
        classes[name] = ClassScore(
            dice if math.isfinite(dice) else None, hd95_mm=(distances_mm or {}).get(name)
        )
    return EvaluationResult(
        n_cases=len(summary["metric_per_case"]), classes=classes, loss=None, seconds=seconds
    )


def class_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> key in nnU-Net's summaries, in the order of the network's outputs."""
    labels = {name: v for name, v in dataset_json["labels"].items() if name != "ignore"}
    if has_regions(dataset_json):
        return {
            name: str(tuple(value) if isinstance(value, list) else value)
            for name, value in labels.items()
            if set(value if isinstance(value, list) else [value]) != {0}
        }
    by_number: dict[int, str] = {}
    for name, value in labels.items():
        by_number.setdefault(value[0] if isinstance(value, list) else value, name)
    return {name: str(number) for number, name in sorted(by_number.items()) if number != 0}


def class_values(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name of a class or region -> the values in a segmentation that belong to it."""
    labels = dataset_json["labels"]
    values = {n: tuple(v) if isinstance(v, list) else (int(v),) for n, v in labels.items()}
    return {name: values[name] for name in class_names(dataset_json)}


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
