"""Scores by class out of nnU-Net's ``summary.json``, and the names of classes.

Classes are reported under the names that ``dataset.json`` gives them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.learner import ClassScore, EvaluationResult
from fedfs.nnunet.data.dataset_json import has_regions, read_json


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


def classes_of(manager: Any, dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return key in nnU-Net's summaries -> label or region, by nnU-Net's label manager."""
    classes = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    return dict(zip(class_names(dataset_json).values(), classes, strict=True))


def class_values(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name of a class or region -> the values in a segmentation that belong to it."""
    labels = dataset_json["labels"]
    values = {n: tuple(v) if isinstance(v, list) else (int(v),) for n, v in labels.items()}
    return {name: values[name] for name in class_names(dataset_json)}
