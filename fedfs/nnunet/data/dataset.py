"""A dataset in nnU-Net's raw layout: ``dataset.json`` and the files of every training case.

Rules:
 * Cases are listed as nnU-Net lists them (``imagesTr``, ``labelsTr``, or the ``dataset`` key), and
   every file is checked to exist before anything starts.
 * A file is a channel, but a natural image holds up to four (RGB, RGBA): nnU-Net splits it when it
   reads. Whether the channels are those of ``dataset.json`` is seen then.
 * Two sites agree if channels, labels and regions agree. Names, descriptions, ``numTraining``,
   file formats and readers are each site's own business.
 * The order of regions decides which output of the network is which region. JSON objects on the
   store are sorted by key, so a ``dataset.json`` of the federation carries the order in
   ``label_order``; :func:`ordered` puts labels and channels in the order that nnU-Net relies on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError, MalformedError
from fedfs.nnunet.system.environment import NnUNetPaths

LABEL_ORDER = "label_order"
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
    """

    name: str
    folder: Path
    dataset_json: Mapping[str, Any]
    cases: tuple[Case, ...]

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
            DatasetError: no such dataset, or unusable ``dataset.json``.
        """
        folder = _find(paths.raw, name_or_id)
        content = _read_dataset_json(folder)
        cases = _listed(folder, content) if "dataset" in content else _scanned(folder, content)
        return cls(folder.name, folder, content, tuple(cases))

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
                f"{self.name} holds no training cases",
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


def read_json(path: Path) -> Any:
    """Read a local JSON file.

    Raises:
        DatasetError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error


def difference(charter_dataset: Mapping[str, Any], local: Mapping[str, Any]) -> list[str]:
    """Return where a local ``dataset.json`` disagrees with the charter's, a text for each point.

    Only channels, labels, regions and the ignore label count. An empty list means agreement.
    """
    lines = _channel_differences(channel_names(charter_dataset), channel_names(local))
    ours, theirs = charter_dataset.get("labels") or {}, local.get("labels") or {}
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            lines.append(f"label {name!r} ({json.dumps(ours[name])}) is missing in the dataset")
        elif name not in ours:
            lines.append(f"label {name!r} ({json.dumps(theirs[name])}) is not in the charter")
        elif _label(ours[name]) != _label(theirs[name]):
            lines.append(
                f"label {name!r} is {json.dumps(ours[name])} in the charter "
                f"and {json.dumps(theirs[name])} in the dataset"
            )
    return lines + _region_differences(charter_dataset, local)


def ordered(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``dataset.json`` from the store as nnU-Net has to see it.

    Channels come by number, labels by ``label_order``.

    Raises:
        MalformedError: there are regions, and ``label_order`` does not give their order.
    """
    labels = dataset_json["labels"]
    order = dataset_json.get(LABEL_ORDER) or (None if has_regions(dataset_json) else list(labels))
    if order is None or sorted(order) != sorted(labels):
        raise MalformedError(
            "does not name every label once; the order of regions decides which output of the "
            "network is which",
            about=f"the field {LABEL_ORDER}",
        )
    names = channel_names(dataset_json)
    out = {
        **dataset_json,
        "channel_names": {key: names[key] for key in sorted(names, key=int)},
        "labels": {name: labels[name] for name in order},
    }
    out.pop(LABEL_ORDER, None)
    if out.get("regions_class_order") is None:
        out.pop("regions_class_order", None)
    return out


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Return channel number -> name, also of a ``dataset.json`` that still says ``modality``."""
    names = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    return {str(key): str(value) for key, value in names.items()}


def has_regions(dataset_json: Mapping[str, Any]) -> bool:
    """Return whether nnU-Net trains regions rather than labels."""
    labels = dataset_json.get("labels") or {}
    return any(isinstance(v, list | tuple) and len(v) > 1 for v in labels.values())


def _find(raw: Path, name_or_id: str | int) -> Path:
    text = str(name_or_id)
    if text.isdecimal():
        found = sorted(p for p in raw.glob(f"Dataset{int(text):03d}_*") if p.is_dir())
        if len(found) == 1:
            return found[0]
        what = "no dataset" if not found else f"{len(found)} datasets"
        raise DatasetError(f"nnUNet_raw = {raw} holds {what} with the id {text}")
    if re.fullmatch(r"Dataset\d{3}_[\w.-]{1,100}", text) is None:
        raise DatasetError(f"{text!r} is not the name of an nnU-Net dataset (DatasetXXX_NAME)")
    if not (raw / text).is_dir():
        raise DatasetError(f"there is no dataset {text} in nnUNet_raw = {raw}")
    return raw / text


def _read_dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is not a JSON object")
    names = channel_names(content)
    if not names or sorted(names, key=int) != [str(i) for i in range(len(names))]:
        raise DatasetError(f"{path}: channel_names must number the channels 0, 1, ...")
    labels = content.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise DatasetError(
            f"{path}: labels must map names to numbers, with background 0",
            hint="nnU-Net v1 wrote labels the other way round; see nnU-Net's dataset_format.md",
        )
    if not isinstance(content.get("file_ending"), str):
        raise DatasetError(f"{path}: file_ending is missing")
    if has_regions(content) and not content.get("regions_class_order"):
        raise DatasetError(f"{path}: regions_class_order is missing although labels are regions")
    return {**content, "channel_names": names}


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
                f"{folder.name}: the image {name} has no channel number",
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
        raise DatasetError(f"{folder} is missing")
    return sorted(e.name for e in os.scandir(folder) if e.is_file() and e.name.endswith(ending))


def _check_files(found: RawDataset) -> None:
    dataset, cases, n_channels = found.name, found.cases, len(found.dataset_json["channel_names"])
    lonely = [case.name for case in cases if not case.images]
    if lonely:
        raise DatasetError(f"{dataset}: no image for the label of {_some(lonely)}")
    channels: list[str] = []
    images: list[str] = []
    labels: list[str] = []
    for case in cases:
        if not found.holds_channels(case):
            channels.append(f"{case.name} ({len(case.images)})")
        images.extend(str(path.name) for path in case.images if not path.is_file())
        if not case.label.is_file():
            labels.append(case.label.name)
    if channels:
        raise DatasetError(
            f"{dataset}: dataset.json names {n_channels} channels, but other numbers of images "
            f"belong to {_some(channels)}"
        )
    if images:
        raise DatasetError(f"{dataset}: missing images: {_some(images)}")
    if labels:
        raise DatasetError(f"{dataset}: missing labels: {_some(labels)}")


def _channel_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    return [
        f"channel {key} is {ours.get(key, 'absent')!r} in the charter "
        f"and {theirs.get(key, 'absent')!r} in the dataset"
        for key in sorted({*ours, *theirs}, key=lambda k: (len(k), k))
        if ours.get(key) != theirs.get(key)
    ]


def _region_differences(charter: Mapping[str, Any], local: Mapping[str, Any]) -> list[str]:
    if not has_regions(charter) and not has_regions(local):
        return []
    lines = []
    ours = list(charter.get("regions_class_order") or [])
    theirs = list(local.get("regions_class_order") or [])
    if ours != theirs:
        lines.append(f"regions_class_order is {ours} in the charter and {theirs} in the dataset")
    order, found = charter.get(LABEL_ORDER), list(local.get("labels") or {})
    if order and sorted(order) == sorted(found) and list(order) != found:
        lines.append(
            f"labels are in the order {', '.join(order)} in the charter and "
            f"{', '.join(found)} in the dataset (regions are trained in this order)"
        )
    return lines


def _label(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
