"""Raw datasets of several sites as one, with a ``cases.csv``, by links."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfs.errors import UserError
from fedfs.nnunet.data.dataset import NATURAL_IMAGES
from fedfs.nnunet.data.dataset_json import difference
from fedfs.protocol import values

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
                f"The datasets of {first} and {site} do not agree: {'; '.join(lines)}.",
                hint="give all of them the same channels, labels and file ending",
            )
    rows = []
    for site, folder in sources.items():
        cases = case_names(folder, str(read[site]["file_ending"]))
        place_dataset(folder, target, cases, prefix=f"{site}-")
        rows += [(f"{site}-{case}", site) for case in cases]
    (target / "dataset.json").write_text(
        json.dumps({**read[first], "numTraining": len(rows)}, indent=1)
    )
    with (target / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "site"), *rows])
    return target


def case_names(folder: Path, ending: str) -> list[str]:
    """Return the names of the cases of a raw dataset, sorted.

    Raises:
        UserError: it has no images.
    """
    tail = f"{_FIRST_CHANNEL}{ending}"
    found = sorted(p.name.removesuffix(tail) for p in (folder / "imagesTr").glob(f"*{tail}"))
    if not found:
        raise UserError(f"There are no images *{tail} in {folder / 'imagesTr'}.")
    return found


@dataclass(frozen=True)
class Split:
    """Cases of one site: for training (and its own validation), and kept away from every site."""

    site: str
    training: tuple[str, ...]
    test: tuple[str, ...]


def read_cases(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Return site -> cases from the ``cases.csv`` of an nnU-Net raw dataset folder.

    Raises:
        UserError: the file is missing, or has no columns ``case`` and ``site``.
    """
    sites: dict[str, list[str]] = {}
    for row in _rows(folder):
        sites.setdefault(row["site"], []).append(row["case"])
    return {site: tuple(sorted(cases)) for site, cases in sorted(sites.items())}


def read_patients(folder: Path) -> dict[str, str]:
    """Return case -> patient from the column ``patient`` of a ``cases.csv``, if it has one.

    Raises:
        UserError: as :func:`read_cases`.
    """
    return {row["case"]: row["patient"] for row in _rows(folder) if row.get("patient")}


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "cases.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror}.",
            hint="the folder needs imagesTr, labelsTr, dataset.json, and cases.csv (case,site); "
            "fedfs simulate --sites takes another table",
        ) from error
    if not rows or not {"case", "site"} <= set(rows[0]):
        raise UserError(
            f"{path} has no columns 'case' and 'site'.", hint="its first line is: case,site"
        )
    return rows


def site_name(text: str, log: Callable[[str], None]) -> str:
    """Return the name that a study gives a site: in lower case, with a line about a change.

    Raises:
        UserError: no site can have the name.
    """
    name = values.check_site(text.strip().lower())
    if name != text:
        log(f"site {text!r} is called {name!r}, as names of sites are in lower case")
    return name


def with_site_names(
    cases: Mapping[str, Sequence[str]], log: Callable[[str], None]
) -> dict[str, tuple[str, ...]]:
    """Return cases under the names that a study gives their sites.

    Raises:
        UserError: no site can have one of the names.
    """
    out: dict[str, tuple[str, ...]] = {}
    for text, names in cases.items():
        name = site_name(text, log)
        out[name] = tuple(sorted((*out.get(name, ()), *names)))
    return out


def split_cases(
    cases: Mapping[str, Sequence[str]],
    *,
    test_share: float,
    patients: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Split, ...]:
    """Keep every n-th patient of each site for the test that all models take.

    Args:
        cases: site -> cases.
        test_share: about this share of them is kept.
        patients: case -> patient; a case that is not named is a patient of its own.

    Raises:
        UserError: a site has too few cases to keep one away and train on five.
    """
    every = max(2, round(1 / test_share))
    out = []
    for site, names in sorted(cases.items()):
        found = list(dict.fromkeys(patients.get(name, name) for name in names))
        kept = set(found[every - 1 :: every])
        test = tuple(name for name in names if patients.get(name, name) in kept)
        training = tuple(name for name in names if name not in test)
        if not test or len(training) < 5:  # noqa: PLR2004  nnU-Net's five folds
            raise UserError(
                f"Site {site} has {len(names)} cases, too few to split: a site trains on five at "
                "least, and keeps some away for the test.",
                hint=f"fedfs simulate --external {site} has all of them tested and none trained "
                "on; or leave the site out",
            )
        out.append(Split(site, training, test))
    return tuple(out)


def dice_by_case(summary: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield each case's reference file, and the Dice of the classes that occur in it.

    Args:
        summary: nnU-Net's ``summary.json``.
    """
    for case in json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]:
        dice = (metrics["Dice"] for metrics in case["metrics"].values())
        found = [value for value in dice if not math.isnan(value)]  # NaN: no such class
        yield Path(case["reference_file"]).name, found


def raw_dataset_json(folder: Path) -> dict[str, Any]:
    """Return the ``dataset.json`` of a raw dataset.

    Raises:
        UserError: it is none.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        found["file_ending"], found["channel_names"], found["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not an nnU-Net raw dataset: {error}.") from error
    return found


def place_dataset(source: Path, target: Path, cases: Sequence[str], *, prefix: str = "") -> None:
    """Make an nnU-Net raw dataset of some cases of another, by links.

    Args:
        source: raw dataset.
        target: folder to make, or to add to.
        cases: names in the source.
        prefix: put before their names in the target.

    Raises:
        UserError: the source is not an nnU-Net raw dataset, or lacks a case.
    """
    dataset = raw_dataset_json(source)
    ending, n_channels = str(dataset["file_ending"]), len(dataset["channel_names"])
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for case in cases:
        names = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(n_channels)]
        if ending.lower() in NATURAL_IMAGES:  # the first may hold all channels
            names = [n for n in names if n == names[0] or (source / n).is_file()]
        # Spacings of TIFF files, where nnU-Net's reader looks for them.
        beside = [f"{sub}/{case}.json" for sub in ("imagesTr", "labelsTr")]
        names += [name for name in beside if (source / name).is_file()]
        for name in (*names, f"labelsTr/{case}{ending}"):
            if not (source / name).is_file():
                raise UserError(f"{source} lacks {name}.")
            folder, _, file = name.partition("/")
            link = target / folder / f"{prefix}{file}"
            if not link.exists():
                link.symlink_to((source / name).resolve())
    dataset["numTraining"] = len(cases)
    (target / "dataset.json").write_text(json.dumps(dataset, indent=1))
