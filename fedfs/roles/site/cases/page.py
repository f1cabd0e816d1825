"""Page of cases, the worst first, with the outlines of the reference and of each model.

Rules:
 * The page shows patients' images. Nothing of it is published, and it says so at its top.
 * It is one file without scripts that fetches nothing; what it shows is switched by its style.
 * Cases are ranked by one model's mean Dice over the classes that occur. All cases are counted in
   its tables, the worst are shown in pictures.
 * Colour says nothing alone: classes have numbers, and the model's outline is dashed.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fedfs import __version__
from fedfs.errors import DatasetError
from fedfs.learner import OnProgress
from fedfs.nnunet.score.case_pictures import CasePictures, take_pictures
from fedfs.nnunet.score.case_scores import CaseView, mean_dice, read_dice
from fedfs.nnunet.score.outlines import Outline
from fedfs.nnunet.score.summary import class_names
from fedfs.roles.reader.templates import Templates, as_markup, read_part, templates_of
from fedfs.roles.site.cases.comparison import (
    CaseScores,
    answer,
    lowest_on_strip,
    model_rows,
    verdict,
)
from fedfs.roles.site.training import LOCAL, PERSONAL

_PACKAGE = "fedfs.roles.site.cases"

STAYS = "This page stays in the hospital: it shows patients' images."
FEDERATED = "federated"
MODELS = {
    LOCAL: "trained on this site's images alone",
    FEDERATED: "trained by all sites together",
    PERSONAL: "the federated model, trained further on this site's images",
}
"""Models that fedfs makes, and the way in which each was trained."""

N_SHOWN = 20

_EDGE = 0.06
"""Share of a picture's side that a number needs."""

_COLOURS = (
    "#ffb000", "#5cc8ff", "#ff7ad9", "#37d99e", "#f4e04d", "#ff8a5c", "#b9a2ff", "#9be564",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table above the cases: title, caption, headers, and rows that begin with a name."""

    title: str
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class CasesPage:
    """The page, and the scores that it tells, of the worst case first.

    Attributes:
        html: the page.
        cases: all cases.
        n_shown: so many of them are shown in pictures.
        broken: case that cannot be shown -> why.
    """

    html: str
    cases: tuple[CaseScores, ...]
    n_shown: int
    broken: Mapping[str, str]


def make_page(
    views: Sequence[CaseView],
    dataset_json: Mapping[str, Any],
    *,
    title: str,
    ranked_by: str,
    made_at: str,
    models: Mapping[str, str] = MODELS,
    notice: str = STAYS,
    intro: Table | None = None,
    n_shown: int = N_SHOWN,
    channel: int = 0,
    num_processes: int = 1,
    on_progress: OnProgress = lambda _: None,
) -> CasesPage:
    """Return a page that shows cases with the predictions of all their models.

    Args:
        views: the cases; all have predictions of the same models, which are shown in their order.
        dataset_json: names channels and classes.
        title: heading of the page.
        ranked_by: model whose Dice says which cases are the worst.
        made_at: UTC text.
        models: model -> the way in which it was trained.
        notice: the first sentence on the page.
        intro: shown above the cases.
        n_shown: show so many of the worst cases in pictures.
        channel: that is shown, from 0.
        num_processes: workers that read images.
        on_progress: progress callback.

    Raises:
        DatasetError: there are no scores of a case, or no case that can be read.
        TrainingError: memory ran out.
    """
    names = list(views[0].predictions)
    found = zip(views, read_dice(views, dataset_json), strict=True)
    ranked = sorted(found, key=lambda pair: _worst_first(pair[0].name, pair[1][ranked_by]))
    broken: dict[str, str] = {}
    pictures = take_pictures(
        [view for view, _ in ranked[:n_shown]],
        dataset_json,
        ranked_by=ranked_by,
        channel=channel,
        num_processes=num_processes,
        on_progress=on_progress,
        on_broken=broken.__setitem__,
    )
    if not pictures:
        raise DatasetError(
            f"None of {len(broken)} cases can be shown. {next(iter(broken.values()))}",
            hint="are images, references and predictions where nnU-Net left them?",
        )
    cases = tuple(
        CaseScores(
            case=view.name,
            mean_dice={model: mean_dice(classes) for model, classes in dice.items()},
            dice=dice,
            hd95_mm=pictures[view.name].hd95_mm if view.name in pictures else None,
        )
        for view, dice in ranked
    )
    classes = list(class_names(dataset_json))
    channels = list(dataset_json["channel_names"].values())
    html = (
        _templates()
        .get_template("cases.html.j2")
        .render(
            title=title,
            notice=notice,
            intro=intro,
            answer=answer(cases, len(pictures), ranked_by),
            models={name: models.get(name, "") for name in names},
            ranked_by=ranked_by,
            rows=model_rows(cases, pictures),
            strip_from=lowest_on_strip(cases),
            classes=classes,
            is_partly_annotated="ignore" in dataset_json["labels"],
            channel=channels[channel] if len(channels) > 1 else "",
            cases=cases,
            ranks={case.case: rank for rank, case in enumerate(cases, start=1)},
            pictures=pictures,
            broken=broken,
            style=as_markup(read_part(_PACKAGE, "cases.css") + _class_switches(len(classes))),
            made_at=made_at,
            version=__version__,
        )
    )
    return CasesPage(html=html, cases=cases, n_shown=len(pictures), broken=broken)


def _worst_first(case: str, dice: Mapping[str, float | None]) -> tuple[bool, float, str]:
    value = mean_dice(dice)
    return value is None, value or 0.0, case


def _class_switches(n_classes: int) -> str:
    """Return the style by which each class is switched off."""
    numbers = range(1, n_classes + 1)
    return "".join(
        f"body:has(#show-{n}:not(:checked)) .picture .c{n} {{ display: none; }}\n" for n in numbers
    )


@cache
def _templates() -> Templates:
    made = templates_of(_PACKAGE)
    made.filters |= {
        "verdict": verdict,
        "mean_of": mean_dice,
        "colour": lambda number: _COLOURS[(number - 1) % len(_COLOURS)],
        "data_uri": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "percent": lambda share: f"{100 * share:.1f}%",
        "facts": _facts,
        "scale": _scale,
        "tags": _tags,
    }
    return made


def _facts(shown: CasePictures) -> str:
    """Return size and grey values of a case's pictures."""
    low, high = shown.grey
    text = f"grey values {low:.4g} to {high:.4g}"
    if not shown.spacing_mm:
        return f"Pixels of unknown size, {text}"
    across, rows, columns = (shown.spacing_mm[axis] for axis in shown.display.axes)
    pixels = f"pixels of {rows:.3g} x {columns:.3g} mm"
    if shown.n_slices == 1:
        return f"{pixels.capitalize()}, {text}"
    return f"Slices every {across:.3g} mm, {pixels}, {text}"


def _scale(shown: CasePictures) -> tuple[float, str]:
    """Return the length of a scale as a share of the picture's width, and its label."""
    longest = shown.side / 3
    power = 10 ** math.floor(math.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    return length / shown.side, f"{length:g} {'mm' if shown.spacing_mm else 'px'}"


def _tags(outlines: Sequence[Outline], reference: Sequence[Outline]) -> list[Outline]:
    """Return one outline of each class, to stand its number at: the model's, if it has one."""
    found = {outline.class_number: outline for outline in (*reference, *outlines)}
    inside = {n: (min(o.at[0], 1 - _EDGE), min(max(o.at[1], _EDGE), 1)) for n, o in found.items()}
    return [replace(found[number], at=inside[number]) for number in sorted(found)]
