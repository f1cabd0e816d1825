"""Patients of a site's cases: ``patients.csv`` in the raw dataset's folder.

::

    case,patient
    organ_001,a
    organ_002,a
    organ_003,b

Rules:
 * A case that the file does not name is a patient of its own; so is every case without the file.
 * It stays at the site. What is published has numbers of patients, and intervals that are wider
   where cases are of the same patients.
"""

import csv
from collections.abc import Collection
from pathlib import Path

from fedfs.errors import DatasetError

FILE = "patients.csv"


def read_patients(folder: Path, cases: Collection[str]) -> dict[str, str]:
    """Return case -> patient; empty where there is no such file.

    Args:
        folder: of the raw dataset.
        cases: names of all cases in it.

    Raises:
        DatasetError: the file cannot be read, or says what cannot be.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    patients: dict[str, str] = {}
    for number, case, patient in _lines(path):
        wrong = ""
        if not case or not patient:
            wrong = "lacks the case or the patient"
        elif case in patients:
            wrong = f"names the case {case} again"
        elif case not in cases:
            wrong = f"names the case {case}, which the dataset does not hold"
        if wrong:
            raise DatasetError(
                f"{path}, line {number}, {wrong}.",
                hint="a line for each case: its name without channel and ending, and its patient",
            )
        patients[case] = patient
    return patients


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """Return number, case and patient of each line below the first."""
    lines = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"case", "patient"} <= set(reader.fieldnames or ()):
                raise DatasetError(
                    f"The first line of {path} does not name the columns case and patient.",
                    hint="write: case,patient",
                )
            for row in reader:
                case, patient = (str(row[name] or "").strip() for name in ("case", "patient"))
                lines.append((reader.line_num, case, patient))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}.",
            hint="save it as CSV in UTF-8, with commas; or remove it: each case is a patient then",
        ) from error
    return lines
