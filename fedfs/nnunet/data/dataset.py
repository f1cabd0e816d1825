"""A dataset in nnU-Net's raw layout: ``dataset.json`` and the files of every training case.

Rules:
 * Cases are listed as nnU-Net lists them (``imagesTr``, ``labelsTr``, or the ``dataset`` key), and
   every file is checked to exist before anything starts.
 * A file is a channel, but a natural image holds up to four (RGB, RGBA): nnU-Net splits it when it
   reads. Whether the channels are those of ``dataset.json`` is seen then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError
from fedfs.nnunet.data.dataset_json import read_dataset_json
from fedfs.nnunet.data.patients import read_patients
from fedfs.nnunet.system.environment import NnUNetPaths

_NAMED_AT_MOST = 5
_CHANNEL = r"_\d{4}"
NATURAL_IMAGES = (".png", ".bmp", ".tif")
"""Endings of files that may hold several channels."""
_CHANNELS_OF_NATURAL_IMAGE = 4


@dataclass(frozen=True)
class Case:
    """Files of one training case, ``images`` in channel order."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """An nnU-Net raw dataset.

    Attributes:
        name: folder name, e.g. ``Dataset004_Hippocampus``.
        folder: where it is.
        dataset_json: content of its ``dataset.json``.
        cases: training cases, sorted by name.
        patients: case -> patient, of cases that ``patients.csv`` names.
    """

    name: str
    folder: Path
    dataset_json: Mapping[str, Any]
    cases: tuple[Case, ...]
    patients: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, paths: NnUNetPaths, name_or_id: str | int) -> RawDataset:
        """Open ``Dataset004_Hippocampus``, or 4, below ``nnUNet_raw``; all its files are there.

        Raises:
            DatasetError: no such dataset, unusable ``dataset.json``, or a file is missing.
        """
        return cls.listed(paths, name_or_id).checked()

    @classmethod
    def listed(cls, paths: NnUNetPaths, name_or_id: str | int) -> RawDataset:
        """Open a dataset without a look at the files of its cases.

        Raises:
            DatasetError: no such dataset, or unusable ``dataset.json`` or ``patients.csv``.
        """
        folder = _find(paths.raw, name_or_id)
        content = read_dataset_json(folder)
        cases = _listed(folder, content) if "dataset" in content else _scanned(folder, content)
        patients = read_patients(folder, {case.name for case in cases})
        return cls(folder.name, folder, content, tuple(cases), patients)

    def without(self, names: Collection[str]) -> RawDataset:
        """Return the dataset as if it did not have these cases."""
        return replace(self, cases=tuple(case for case in self.cases if case.name not in names))

    def checked(self) -> RawDataset:
        """Return the dataset itself.

        Raises:
            DatasetError: it has no cases, or a file is missing.
        """
        if not self.cases:
            raise DatasetError(
                f"{self.name} holds no training cases.",
                hint=f"nnU-Net expects images in {self.folder / 'imagesTr'} named "
                f"CASE_0000{self.dataset_json['file_ending']}",
            )
        _check_files(self)
        return self

    def holds_channels(self, case: Case) -> bool:
        """Return whether the case has as many images as its channels take."""
        n_channels, n_images = len(self.dataset_json["channel_names"]), len(case.images)
        if str(self.dataset_json["file_ending"]).lower() not in NATURAL_IMAGES:
            return n_images == n_channels
        return n_images <= n_channels <= n_images * _CHANNELS_OF_NATURAL_IMAGE

    @property
    def label_values(self) -> frozenset[int]:
        """Every value that may occur in a segmentation, the ignore label included."""
        values = {0}
        for value in self.dataset_json["labels"].values():
            values.update(int(v) for v in (value if isinstance(value, list) else [value]))
        return frozenset(values)

    def facts(self) -> dict[str, Any]:
        """Return what a join request and the charter are compared by."""
        return {
            "n_cases": len(self.cases),
            "channel_names": dict(self.dataset_json["channel_names"]),
            "labels": dict(self.dataset_json["labels"]),
            "regions_class_order": self.dataset_json.get("regions_class_order"),
            "file_ending": self.dataset_json["file_ending"],
        }


def _find(raw: Path, name_or_id: str | int) -> Path:
    text = str(name_or_id)
    if text.isdecimal():
        found = sorted(p for p in raw.glob(f"Dataset{int(text):03d}_*") if p.is_dir())
        if len(found) == 1:
            return found[0]
        what = "no dataset" if not found else f"{len(found)} datasets"
        raise DatasetError(
            f"nnUNet_raw = {raw} holds {what} with the id {text}.",
            hint="check the id, or give the whole name of the dataset",
        )
    if re.fullmatch(r"Dataset\d{3}_[\w.-]{1,100}", text) is None:
        raise DatasetError(
            f"{text!r} is not the name of an nnU-Net dataset (DatasetXXX_NAME).",
            hint="for example Dataset004_Hippocampus, or 4",
        )
    if not (raw / text).is_dir():
        raise DatasetError(
            f"There is no dataset {text} in nnUNet_raw = {raw}.",
            hint="check its name, and that nnUNet_raw names the right folder; is it mounted?",
        )
    return raw / text


def _listed(folder: Path, content: Mapping[str, Any]) -> list[Case]:
    def resolve(text: str) -> Path:
        return (folder / os.path.expandvars(text)).absolute()

    return [
        Case(name, tuple(resolve(i) for i in files["images"]), resolve(files["label"]))
        for name, files in sorted(content["dataset"].items())
    ]


def _scanned(folder: Path, content: Mapping[str, Any]) -> list[Case]:
    ending: str = content["file_ending"]
    images, labels = _files(folder / "imagesTr", ending), _files(folder / "labelsTr", ending)
    pattern = re.compile(rf"(.+){_CHANNEL}{re.escape(ending)}")
    by_case: dict[str, list[str]] = {}
    for name in images:
        match = pattern.fullmatch(name)
        if match is None:
            raise DatasetError(
                f"In {folder.name}, the image {name} has no channel number.",
                hint=f"nnU-Net expects CASE_0000{ending}, CASE_0001{ending}, ...",
            )
        by_case.setdefault(match[1], []).append(name)
    for name in labels:
        by_case.setdefault(name.removesuffix(ending), [])
    return [
        Case(
            case,
            tuple(folder / "imagesTr" / name for name in names),
            folder / "labelsTr" / (case + ending),
        )
        for case, names in sorted(by_case.items())
    ]


def _files(folder: Path, ending: str) -> list[str]:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is missing.",
            hint="nnU-Net expects dataset.json, imagesTr and labelsTr there",
        )
    return sorted(e.name for e in os.scandir(folder) if e.is_file() and e.name.endswith(ending))


def _check_files(found: RawDataset) -> None:
    dataset, cases, n_channels = found.name, found.cases, len(found.dataset_json["channel_names"])
    lonely = [case.name for case in cases if not case.images]
    if lonely:
        raise DatasetError(
            f"{dataset} holds no image for the label of {_some(lonely)}.",
            hint="add the image, or remove the label",
        )
    channels = [f"{c.name} ({len(c.images)})" for c in cases if not found.holds_channels(c)]
    images = [path.name for case in cases for path in case.images if not path.is_file()]
    labels = [case.label.name for case in cases if not case.label.is_file()]
    if channels:
        raise DatasetError(
            f"In {dataset}, dataset.json names {n_channels} channels, but other numbers of images "
            f"belong to {_some(channels)}.",
            hint="add the missing channels, or correct dataset.json",
        )
    if images:
        raise DatasetError(
            f"{dataset} lacks these images: {_some(images)}.",
            hint="add them, or remove these cases",
        )
    if labels:
        raise DatasetError(
            f"{dataset} lacks these labels: {_some(labels)}.",
            hint="add them, or remove these cases",
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
