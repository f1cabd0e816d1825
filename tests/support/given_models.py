"""Models for in-memory studies that train nothing, and such a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.nnunet.plan.trained_model import TrainedModel
from fedfs.roles.coordinator.evaluation import NamedModel
from fedfs.tensors.canonical import write_safetensors
from support.federation import DATASET_JSON, Federation

SHAPES = {"a.weight": [2, 3], "b.bias": [4]}
MODELS: Mapping[str, Sequence[float]] = {"ours": (1.0,), "theirs": (-3.0, -1.0)}
"""Name -> the value that all weights of each fold have: to the fake learner, what it segments."""


def given_models(
    folder: Path, models: Mapping[str, Sequence[float]] = MODELS
) -> tuple[NamedModel, ...]:
    """Return models, their networks in files below a folder."""
    made = []
    for name, values in models.items():
        folds = {}
        for fold, value in enumerate(values):
            path = folder / name / f"{fold}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = {n: np.full(shape, value, np.float32) for n, shape in SHAPES.items()}
            write_safetensors(path, arrays)
            folds[str(fold)] = str(path)
        plans = {"plans_name": f"plans-{name}", "dataset_name": "Dataset042_Organ"}
        model = TrainedModel(
            plans={**plans, "tensors": SHAPES},
            dataset_json=DATASET_JSON,
            trainer="nnUNetTrainer",
            configuration="2d",
            folds=folds,
        )
        made.append(NamedModel(name, model))
    return tuple(made)


def evaluation(
    folder: Path, models: Mapping[str, Sequence[float]] = MODELS, **options: Any
) -> Federation:
    """Return a study that evaluates models, which no site has joined yet."""
    return Federation(folder, evaluates=given_models(folder / "given", models), **options)
