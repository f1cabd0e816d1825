"""Results of the demo: scores by site and model, as a table and as a page with pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import TrainingError
from fedfs.nnunet.score.case_scores import CaseView
from fedfs.roles.site.cases.page import FEDERATED, MODELS, STAYS, Table, make_page
from fedfs.roles.site.cases.validation import write_page as write_private_page
from fedfs.simulation.cases import Split

_MADE_UP = "The images are made up: no patient is shown."
_CAPTION = (
    "Mean Dice on test cases that no site trained on: on each site's own kind of images, and on "
    "those of all sites. The models trained alone and the personal ones have had the same number "
    "of iterations in total."
)


@dataclass(frozen=True)
class SiteScores:
    """Mean foreground Dice of a site's models.

    ``own`` is on test cases of this site's kind, ``all`` on the test cases of all sites.
    """

    site: str
    n_training_cases: int
    local_own: float
    local_all: float
    federated_own: float
    federated_all: float
    personal_own: float
    personal_all: float

    def dice(self, of: str) -> tuple[float, ...]:
        """Return the Dice of the three models on ``own`` or ``all`` images."""
        return tuple(getattr(self, f"{model}_{of}") for model in MODELS)


def site_scores(split: Split, dice: Mapping[str, Mapping[str, float]]) -> SiteScores:
    """Return the scores of one site's models.

    Args:
        split: of the site.
        dice: model -> test case of any site -> mean Dice.
    """
    found = {}
    for model in MODELS:
        cases = dice[model_name(model, split.site)]
        found[f"{model}_own"] = mean([cases[case] for case in split.test])
        found[f"{model}_all"] = mean(list(cases.values()))
    return SiteScores(split.site, len(split.training), **found)


def model_name(model: str, site: str) -> str:
    """Return the name of a site's model; the federated one is that of all sites."""
    return model if model == FEDERATED else f"{model}-{site}"


def mean(values: Sequence[float]) -> float:
    """Return the mean.

    Raises:
        TrainingError: there are no values.
    """
    if not values:
        raise TrainingError("There is nothing to score.", kind="no-cases")
    return sum(values) / len(values)


def table(
    sites: Sequence[SiteScores], iterations: Mapping[str, int]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heading and rows: a site in each, the mean of all, and the iterations at each site.

    Args:
        sites: the scores.
        iterations: model -> training iterations at each site.
    """
    heading = ("site", "cases", *(f"{of} images: {m}" for of in ("own", "all") for m in MODELS))
    rows = [
        (s.site, str(s.n_training_cases), *(f"{d:.3f}" for d in (*s.dice("own"), *s.dice("all"))))
        for s in sites
    ]
    columns = zip(*((*s.dice("own"), *s.dice("all")) for s in sites), strict=True)
    rows.append(("mean", "", *(f"{mean(column):.3f}" for column in columns)))
    rows.append(("iterations", "", *(str(iterations[model]) for _ in range(2) for model in MODELS)))
    return heading, rows


def write_page(
    path: Path,
    sites: Sequence[SiteScores],
    *,
    iterations: Mapping[str, int],
    views: Sequence[CaseView],
    dataset_json: Mapping[str, Any],
    is_made_up: bool,
    made_at: str,
) -> None:
    """Write the page: the table, and the cases with the outlines of their site's three models.

    Args:
        path: file to write.
        sites: the scores.
        iterations: model -> training iterations at each site.
        views: all test cases.
        dataset_json: names channels and classes.
        is_made_up: whether the images show no patient.
        made_at: UTC text.
    """
    headers, rows = table(sites, iterations)
    page = make_page(
        views,
        dataset_json,
        title="The demo: three models on cases that no hospital trained on",
        ranked_by=FEDERATED,
        made_at=made_at,
        notice=_MADE_UP if is_made_up else STAYS,
        intro=Table("Models at each site", _CAPTION, headers, rows),
    )
    write_private_page(path, page.html)


def case_views(
    splits: Sequence[Split], images: Path, outputs: Mapping[str, Path], ending: str
) -> list[CaseView]:
    """Return the test cases, each with the predictions of its own site's models.

    Args:
        splits: of all sites.
        images: raw dataset of the test cases.
        outputs: model -> folder of its predictions.
        ending: of files.
    """
    return [
        CaseView(
            name=case,
            images=tuple(
                sorted((images / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}"))
            ),
            reference=images / "labelsTr" / f"{case}{ending}",
            predictions={
                model: outputs[model_name(model, split.site)] / f"{case}{ending}"
                for model in MODELS
            },
        )
        for split in splits
        for case in split.test
    ]
