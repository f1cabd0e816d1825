"""Raw datasets of several sites as one, with a ``cases.csv``, by links."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from fedfs.errors import UserError
from fedfs.nnunet.data.dataset import difference
from fedfs.simulation.hosts import place_dataset, raw_dataset_json

_FIRST_CHANNEL = "_0000"


def pool(sources: Mapping[str, Path], target: Path) -> Path:
    """Make one nnU-Net raw dataset of those of several sites; return its folder.

    Case ``001`` of the site ``north`` becomes ``north-001``. Made again, it stays as it is.

    Args:
        sources: site -> raw dataset, with ``imagesTr``, ``labelsTr`` and ``dataset.json``.
        target: folder to make.

    Raises:
        UserError: one is no raw dataset, has no cases, or has other channels, labels or file
            endings than the first.
    """
    read = {site: raw_dataset_json(folder) for site, folder in sources.items()}
    first, *others = read
    for site in others:
        lines = difference(read[first], read[site])
        if read[site]["file_ending"] != read[first]["file_ending"]:
            lines.append(
                f"file ending {read[first]['file_ending']} and {read[site]['file_ending']}"
            )
        if lines:
            raise UserError(
                f"the datasets of {first} and {site} do not agree: {'; '.join(lines)}",
                hint="give all of them the same channels, labels and file ending",
            )
    rows = []
    for site, folder in sources.items():
        cases = _cases(folder, str(read[site]["file_ending"]))
        place_dataset(folder, target, cases, prefix=f"{site}-")
        rows += [(f"{site}-{case}", site) for case in cases]
    (target / "dataset.json").write_text(
        json.dumps({**read[first], "numTraining": len(rows)}, indent=1)
    )
    with (target / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "site"), *rows])
    return target


def _cases(folder: Path, ending: str) -> list[str]:
    tail = f"{_FIRST_CHANNEL}{ending}"
    found = sorted(p.name.removesuffix(tail) for p in (folder / "imagesTr").glob(f"*{tail}"))
    if not found:
        raise UserError(f"there are no images *{tail} in {folder / 'imagesTr'}")
    return found
