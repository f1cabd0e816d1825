"""The numbers of a report as CSV: one line per version and site, and one per model and metric."""

import csv
from typing import Any, TextIO

from fedfs.roles.reader.report.comparison import Comparison
from fedfs.roles.reader.report.data import Report

COLUMNS = ("version", "published", "site", "dice", "train_loss", "weight", "lag", "mean_dice")


def write_csv(report: Report, file: TextIO) -> None:
    """Write a table; what is not known is an empty cell."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for i, version in enumerate(report.versions):
        for row in report.sites:
            site = row.site
            values = (
                report.dice[site][i], report.train_loss[site][i], report.weights[site][i],
                report.lags[site][i], report.mean_dice[i],
            )  # fmt: skip
            _write(writer, version, report.published[i], site, *values)


MODEL_COLUMNS = (
    "site", "model", "minus", "class", "metric", "n", "patients", "mean", "sd", "low", "high", "p",
    "budget",
)  # fmt: skip


def write_models_csv(comparison: Comparison, file: TextIO) -> None:
    """Write models at sites and pairs of them, of which ``minus`` names the second one.

    An empty class is the mean over classes; what is not known is an empty cell.
    """
    writer = csv.writer(file)
    writer.writerow(MODEL_COLUMNS)
    for row in comparison.models:
        for name, scores in (("", row.metrics), *row.classes.items()):
            for metric, one in scores.items():
                _write(
                    writer, row.site, row.model, "", name, metric, one.n, None, one.mean, one.sd,
                    one.low, one.high, None, row.budget,
                )  # fmt: skip
    for pair in comparison.differences:
        _write(
            writer, pair.site, pair.model, pair.other, "", pair.metric, pair.n, pair.n_patients,
            pair.mean, None, pair.low, pair.high, pair.p, None,
        )  # fmt: skip


def _write(writer: Any, *cells: object) -> None:
    writer.writerow("" if cell is None else cell for cell in cells)
