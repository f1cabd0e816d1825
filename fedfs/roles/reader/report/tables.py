"""The numbers of a report as CSV, one line per version and site."""

import csv
from typing import TextIO

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
            cells = ("" if value is None else value for value in values)
            writer.writerow((version, report.published[i], site, *cells))
