"""Cases for a page: images, a reference, and predictions that are off by some voxels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from fedfs.nnunet.score.case_scores import CaseView
from fedfs.nnunet.score.summary import class_names, class_values

LABELS: dict[str, Any] = {"background": 0, "shell": 1, "core": 2}


def dataset_json(**changes: Any) -> dict[str, Any]:
    return {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": LABELS,
        "file_ending": ".nii.gz",
        **changes,
    }


def write_cases(
    folder: Path,
    models: Mapping[str, Sequence[int]],
    content: Mapping[str, Any],
    *,
    shape: tuple[int, ...] = (12, 30, 24),
    spacing: tuple[float, ...] = (2.0, 1.0, 1.0),
) -> list[CaseView]:
    """Write cases; ``models`` says by how many voxels each model is off in each of them."""
    rng = np.random.default_rng(0)
    views = []
    for number in range(len(next(iter(models.values())))):
        name = f"case_{number}"
        reference = _ellipsoids(shape)
        images = [
            _write(folder / "images" / f"{name}_{c:04d}.nii.gz", grey.astype(np.float32), spacing)
            for c in range(len(content["channel_names"]))
            for grey in [100 * reference + rng.normal(0, 20, shape) + 1000 * c]
        ]
        predictions = {
            model: _write(
                folder / model / f"{name}.nii.gz", np.roll(reference, off[number], -1), spacing
            )
            for model, off in models.items()
        }
        path = _write(folder / "labels" / f"{name}.nii.gz", reference, spacing)
        views.append(
            CaseView(name=name, images=tuple(images), reference=path, predictions=predictions)
        )
    for model in models:
        _write_summary(folder / model, views, model, content)
    return views


def _ellipsoids(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    middle, radii = np.array(shape) / 2, np.array(shape) / 4
    distance = np.sqrt((((grid - middle) / radii) ** 2).sum(-1))
    return np.asarray((distance < 1) * 1 + (distance < 0.5) * 1, dtype=np.uint8)


def _write(path: Path, array: npt.NDArray[Any], spacing: Sequence[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(list(spacing[::-1]))
    SimpleITK.WriteImage(image, str(path))
    return path


def _write_summary(
    folder: Path, views: Sequence[CaseView], model: str, content: Mapping[str, Any]
) -> None:
    values = class_values(content)
    cases = []
    for view in views:
        one, other = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
            for path in (view.reference, view.predictions[model])
        )
        metrics = {}
        for name, key in class_names(content).items():
            a, b = np.isin(one, values[name]), np.isin(other, values[name])
            total = int(a.sum() + b.sum())
            metrics[key] = {"Dice": 2 * int((a & b).sum()) / total if total else float("nan")}
        cases.append({"metrics": metrics, "prediction_file": str(view.predictions[model])})
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
