"""Cases with predictions of several models, and nnU-Net's Dice of each.

Rules:
 * Dice is nnU-Net's, out of the ``summary.json`` that it writes beside its predictions.
 * Cases in which no class occurs have no Dice, and come last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.summary import SUMMARY, class_names

Dice = Mapping[str, Mapping[str, float | None]]
"""Model -> class -> Dice; None where the class occurs in neither reference nor prediction."""


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """Files of a case that is to be shown.

    Attributes:
        name: of the case.
        images: a file for each channel, in order.
        reference: its segmentation.
        predictions: name of a model -> its segmentation, with nnU-Net's ``summary.json`` beside it.
    """

    name: str
    images: tuple[Path, ...]
    reference: Path
    predictions: Mapping[str, Path]


def read_dice(views: Sequence[CaseView], dataset_json: Mapping[str, Any]) -> list[Dice]:
    """Return the Dice of each case.

    Raises:
        DatasetError: a ``summary.json`` is missing, or has no scores of a case.
    """
    summaries: dict[Path, dict[str, Mapping[str, Any]]] = {}
    names = class_names(dataset_json)

    def dice_of(path: Path) -> dict[str, float | None]:
        folder = path.parent
        if folder not in summaries:
            cases = read_json(folder / SUMMARY)["metric_per_case"]
            summaries[folder] = {Path(c["prediction_file"]).name: c["metrics"] for c in cases}
        metrics = summaries[folder].get(path.name)
        if metrics is None:
            raise DatasetError(
                f"{folder / SUMMARY} has no scores of {path.name}.",
                hint="the validation was interrupted: start the site again",
            )
        values = {name: float(metrics[key]["Dice"]) for name, key in names.items()}
        return {name: dice if math.isfinite(dice) else None for name, dice in values.items()}

    return [{model: dice_of(path) for model, path in v.predictions.items()} for v in views]


def mean_dice(dice: Mapping[str, float | None]) -> float | None:
    """Return the mean over the classes that occur; None if none does."""
    defined = [value for value in dice.values() if value is not None]
    return sum(defined) / len(defined) if defined else None
