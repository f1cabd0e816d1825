"""Comparison of the models of a page over all of its cases, in numbers and sentences."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedfs.nnunet.score.case_scores import Dice

ALIKE = 0.01
"""Difference in mean Dice below which two models count as equal in a case."""

_ROWS_OF_DOTS = 5


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """A case and its scores.

    Attributes:
        case: its name.
        mean_dice: model -> mean Dice over the classes that occur.
        dice: model -> class -> Dice.
        hd95_mm: model -> class -> HD95, of a case that is shown in pictures.
    """

    case: str
    mean_dice: Mapping[str, float | None]
    dice: Dice
    hd95_mm: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Dot:
    """A case on a line of Dice: shares of the width and height, in percent."""

    left: float
    top: float
    is_shown: bool


@dataclass(frozen=True)
class ModelRow:
    """A model over all cases.

    Attributes:
        mean: of the cases' mean Dice.
        lowest: of them.
        n_best: cases in which no other model is better.
        dots: a dot for each case.
    """

    mean: float | None
    lowest: float | None
    n_best: int
    dots: tuple[Dot, ...]


def best_models(mean_dice: Mapping[str, float | None]) -> list[str]:
    """Return the model with the highest Dice, and those that are as good."""
    known = {model: dice for model, dice in mean_dice.items() if dice is not None}
    best = max(known.values(), default=0.0)
    return [model for model, dice in known.items() if dice > best - ALIKE]


def lowest_on_strip(cases: Sequence[CaseScores]) -> float:
    """Return the tenth at which a line of Dice begins, so that all cases are on it."""
    found = [dice for case in cases for dice in case.mean_dice.values() if dice is not None]
    return math.floor(10 * min(found, default=0.0)) / 10 if min(found, default=0.0) < 1 else 0.9


def model_rows(cases: Sequence[CaseScores], shown: Collection[str]) -> dict[str, ModelRow]:
    """Return model -> its row.

    Args:
        cases: all cases.
        shown: names of those in pictures.
    """
    begin, out = lowest_on_strip(cases), {}
    for model in cases[0].mean_dice:
        found = {c.case: d for c in cases if (d := c.mean_dice[model]) is not None}
        out[model] = ModelRow(
            mean=sum(found.values()) / len(found) if found else None,
            lowest=min(found.values(), default=None),
            n_best=sum(model in best_models(case.mean_dice) for case in cases),
            dots=tuple(
                Dot(
                    left=round(100 * (dice - begin) / (1 - begin), 1),
                    top=100 * (number % _ROWS_OF_DOTS + 1) / (_ROWS_OF_DOTS + 1),
                    is_shown=case in shown,
                )
                for number, (case, dice) in enumerate(found.items())
            ),
        )
    return out


def answer(cases: Sequence[CaseScores], n_shown: int, ranked_by: str) -> str:
    """Return what a page shows, and how the ranked model compares with the others."""
    text = "1 case." if len(cases) == 1 else f"{len(cases)} cases, the worst first."
    if n_shown < len(cases):
        text = (
            f"{len(cases)} cases, {n_shown} of them with pictures: the lowest Dice of the model "
            f"{ranked_by} first."
        )
    for other in cases[0].mean_dice:
        if other == ranked_by:
            continue
        signs = [
            _compare(a, b)
            for case in cases
            if (a := case.mean_dice[ranked_by]) is not None
            and (b := case.mean_dice[other]) is not None
        ]
        text += (
            f" Against {other}, {ranked_by} is better in {signs.count(1)}, alike in "
            f"{signs.count(0)} and worse in {signs.count(-1)}."
        )
    return text


def verdict(mean_dice: Mapping[str, float | None]) -> str:
    """Return which model is the best in a case."""
    known = {model: dice for model, dice in mean_dice.items() if dice is not None}
    if not known:
        return "No class occurs in this case."
    best = best_models(mean_dice)
    rest = [model for model in known if model not in best]
    if len(known) == 1:
        return f"Dice {next(iter(known.values())):.3f}"
    if not rest:
        return "The models are alike here."
    second = max(rest, key=known.__getitem__)
    lead = max(known[model] for model in best) - known[second]
    name = " and ".join(best)
    return f"Best here: {name}, by {lead:.3f} Dice over {second}."


def _compare(one: float, other: float) -> int:
    return 0 if abs(one - other) < ALIKE else (1 if one > other else -1)
