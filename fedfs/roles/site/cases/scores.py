"""Scores of a site's validation cases, case by case, for the hospital's eyes.

Rules:
 * They are what :mod:`fedfs.roles.site.score_files` kept when models were scored: nothing is
   computed here, and nothing is published.
 * The worst case of a model comes first, by its mean Dice over the classes that occur; cases
   without a Dice come last.
 * A file of them is for this user alone, and never lies in the study's store.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedfs.aggregation.case_statistics import over_classes
from fedfs.errors import StudyError, UserError
from fedfs.exchange.read import open_tracks
from fedfs.learner import METRICS
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import layout
from fedfs.protocol.messages import chosen_tracks
from fedfs.roles.reader.model_scores import order
from fedfs.roles.site.cases.validation import check_outside, write_page
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.score_files import ScoredCases, ScoreFiles, score_folder
from fedfs.roles.site.training import joined_as, track_folder
from fedfs.store import open_store
from fedfs.trust.recipients import Vault


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """Scores of one model in one case.

    Attributes:
        track: of the study.
        version: that was scored, or beside which the model was.
        variant: the model, see :class:`fedfs.protocol.messages.EvaluationMessage`.
        case: its name.
        patient: as ``patients.csv`` names it; "" where it does not.
        metrics: mean over the classes in which each is defined.
        classes: class -> metrics.
    """

    track: str
    version: int
    variant: str
    case: str
    patient: str
    metrics: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]


def read_cases(config: SiteConfig, variants: Sequence[str] = ()) -> list[CaseRow]:
    """Return the scores of all cases, by track, version and model, the worst case first.

    Args:
        config: of the site, with the tracks to read.
        variants: to return; empty for all.

    Raises:
        StudyError: no case, or none of these variants, has been scored here.
        FedfsError: the study, the store or this host's data are not as they should be.
    """
    observers = open_tracks(
        open_store(config.store), site=config.site, skip=layout.STATUS_KINDS,
        vault=Vault(config.home),
    )  # fmt: skip
    charter = next(iter(observers.values())).state.charter
    paths = from_environment(os.environ)
    dataset = RawDataset.listed(paths, str(joined_as(config, charter)["dataset"]))
    found = [
        (name, scored)
        for name in chosen_tracks(charter, config.tracks)
        for scored in sorted(
            ScoreFiles(score_folder(track_folder(paths, charter.on(name), config.site))).all(),
            key=lambda one: (one.version, order(one.variant)),
        )
    ]
    if not found:
        raise StudyError(
            f"No model has been scored case by case at site {config.site!r} yet.",
            hint=f"nnU-Net validates the last version: fedfs site run {config.store} "
            f"--site {config.site}",
        )
    known = dict.fromkeys(scored.variant for _, scored in found)
    if unknown := [variant for variant in variants if variant not in known]:
        raise StudyError(
            f"No model {unknown[0]!r} has been scored at site {config.site!r}.",
            hint=f"scored are: {', '.join(known)}",
        )
    return [
        row
        for track, scored in found
        if not variants or scored.variant in variants
        for row in _rows(track, scored, dataset.patients)
    ]


def write_cases(rows: Sequence[CaseRow], output: Path, config: SiteConfig) -> None:
    """Write the scores as CSV or JSON, by the file's ending; only this user may read it.

    A CSV file has a line for each class, and one without a class for the mean over the classes.

    Raises:
        UserError: the ending is another one, or the file would lie in the store or cannot be
            written.
    """
    check_outside(output, open_store(config.store), "names of cases")
    if output.suffix == ".json":
        text = json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
    elif output.suffix == ".csv":
        text = _as_csv(rows)
    else:
        raise UserError(f"{output} ends neither in .csv nor in .json.", hint="give it such a name")
    write_page(output, text)


def _rows(track: str, scored: ScoredCases, patients: Mapping[str, str]) -> list[CaseRow]:
    by_metric = over_classes(scored.by_case)
    rows = [
        CaseRow(
            track=track,
            version=scored.version,
            variant=scored.variant,
            case=case,
            patient=patients.get(case, ""),
            metrics={m: found[case] for m, found in by_metric.items() if case in found},
            classes=classes,
        )
        for case, classes in scored.by_case.items()
    ]
    return sorted(rows, key=lambda row: (row.metrics.get("dice", math.inf), row.case))


def _as_csv(rows: Sequence[CaseRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["track", "version", "variant", "case", "patient", "class", *METRICS])
    for row in rows:
        for name, metrics in (("", row.metrics), *row.classes.items()):
            head = [row.track, row.version, row.variant, row.case, row.patient, name]
            writer.writerow([*head, *(metrics.get(metric, "") for metric in METRICS)])
    return text.getvalue()
