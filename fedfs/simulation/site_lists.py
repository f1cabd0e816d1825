"""Public datasets of several sites, whose own tables say where each case is from.

Such a table has a line for each case, or for each patient: FeTS's partitioning (``Subject_ID``,
``Partition_ID``), M&Ms' list of patients (``External code``, ``Vendor`` or ``Centre``), or another
one beside a dataset of the Medical Segmentation Decathlon. Images have to be in nnU-Net's raw
format; nnU-Net's own scripts convert these datasets.

Rules:
 * A line is about the case of its name. If there is none, it is about a patient, whose cases have
   names that begin with it: ``A0S9V9`` is that of ``A0S9V9_frame00`` and ``A0S9V9_frame11``.
 * Cases of one patient stay together: none is tested where another one is trained on.
 * Cases that no line is about are left out.
"""

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import UserError
from fedfs.simulation.cases import case_names, place_dataset, raw_dataset_json

_MOST_LETTERS = 32  # of a site's name
_SEPARATOR = re.compile(r"[_.-]")


@dataclass(frozen=True)
class SiteList:
    """A table that says which site a case is from.

    Attributes:
        path: CSV file with a heading.
        case_column: name of a case, or of a patient.
        site_column: name of its site; what no site can be called is replaced.
    """

    path: Path
    case_column: str = "case"
    site_column: str = "site"

    def read(self) -> dict[str, str]:
        """Return case or patient -> site, as the table says.

        Raises:
            UserError: it cannot be read, has no such column, or names a case twice for two sites.
        """
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"Cannot read {self.path}: {error}.") from error
        columns = [name for name in (rows[0] if rows else {}) if name]
        for option, column in (
            ("--case-column", self.case_column),
            ("--site-column", self.site_column),
        ):
            if column not in columns:
                raise UserError(
                    f"{self.path} has no column {column!r}.",
                    hint=f"give {option}, one of: {', '.join(columns) or 'none, it is empty'}",
                )
        sites: dict[str, str] = {}
        for number, row in enumerate(rows, start=2):
            case, site = (str(row[c] or "").strip() for c in (self.case_column, self.site_column))
            if not case or not site:
                continue
            if sites.setdefault(case, site) != site:
                raise UserError(
                    f"{self.path}, line {number}: {case!r} is at {site!r}, and before that at "
                    f"{sites[case]!r}.",
                    hint="a case has one site",
                )
        return sites


def assign_sites(data: Path, sites: SiteList, target: Path, *, log: Callable[[str], None]) -> Path:
    """Make a raw dataset with ``cases.csv`` of one without, by links; return its folder.

    Args:
        data: nnU-Net raw dataset.
        sites: says which site a case is from.
        target: folder to make. Made again, it stays as it is.
        log: called with a line about names that change, and cases that are left out.

    Raises:
        UserError: the table is not usable, or none of its lines is about a case.
    """
    dataset = raw_dataset_json(data)
    listed, cases = sites.read(), case_names(data, str(dataset["file_ending"]))
    found = {case: line for case in cases if (line := _line_about(case, listed)) is not None}
    if not found:
        raise UserError(
            f"{sites.path} names no case of {data}.",
            hint=f"it has {next(iter(listed), 'no line')!r}, the dataset {cases[0]!r}: is "
            f"{sites.case_column!r} the right column?",
        )
    if left_out := len(cases) - len(found):
        log(f"{left_out} of {len(cases)} cases are left out: {sites.path.name} does not name them")
    names = {site: _usable_name(site) for site in sorted({*listed.values()})}
    for site, name in names.items():
        if name != site:
            log(f"site {site!r} is called {name!r}")
    place_dataset(data, target, list(found))
    (target / "dataset.json").write_text(json.dumps({**dataset, "numTraining": len(found)}))
    rows = [(case, names[listed[line]], line) for case, line in found.items()]
    with (target / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "site", "patient"), *rows])
    return target


def _line_about(case: str, listed: Mapping[str, str]) -> str | None:
    """Return the longest name in a table that a case's name is, or begins with."""
    ends = [len(case), *(match.start() for match in _SEPARATOR.finditer(case))]
    names = (case[:end] for end in sorted(ends, reverse=True))
    return next((name for name in names if name in listed), None)


def _usable_name(site: str) -> str:
    """Return a name that a study can give a site."""
    name = re.sub(r"[^a-z0-9]+", "-", site.lower())[:_MOST_LETTERS].strip("-")
    if not name:
        raise UserError(f"No site can be called {site!r}.", hint="choose another column")
    return name
