"""Scores by class out of nnU-Net's ``summary.json``, and the names of classes.

Classes are reported under the names that ``dataset.json`` gives them.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

from fedfs.learner import CaseScores, ClassScore, EvaluationResult
from fedfs.nnunet.data.dataset_json import has_regions, read_json

SUMMARY = "summary.json"
"""nnU-Net's file of scores, beside the predictions."""


def read_summary(
    path: Path, dataset_json: Mapping[str, Any], by_case: CaseScores
) -> EvaluationResult:
    """Return what nnU-Net's ``summary.json`` says, classes by name: mean Dice over the cases.

    Args:
        path: the file.
        dataset_json: names of the classes.
        by_case: metrics of its cases.
    """
    summary = read_json(path)
    classes = {}
    for name, key in class_names(dataset_json).items():
        dice = float(summary["mean"][key]["Dice"])
        scores = [case[name] for case in by_case.values()]
        distances = [score["hd95_mm"] for score in scores if "hd95_mm" in score]
        classes[name] = ClassScore(
            dice if math.isfinite(dice) else None,
            hd95_mm=fmean(distances) if distances else None,
        )
    return EvaluationResult(
        n_cases=len(summary["metric_per_case"]),
        classes=classes,
        loss=None,
        seconds=0.0,
        by_case=by_case,
    )


def result_of(record: Mapping[str, Any]) -> EvaluationResult:
    """Return a result that was kept as JSON.

    Raises:
        TypeError, KeyError: it is not one.
    """
    classes = {name: ClassScore(**score) for name, score in record["classes"].items()}
    names = {field.name for field in fields(EvaluationResult)}
    kept = {name: value for name, value in record.items() if name in names}
    return EvaluationResult(**{**kept, "classes": classes})


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
