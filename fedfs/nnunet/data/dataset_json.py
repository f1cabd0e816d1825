"""nnU-Net's ``dataset.json``: reading it, comparing it with the charter's, and its order.

Rules:
 * Two sites agree if channels, labels and regions agree. Names, descriptions, ``numTraining``,
   file formats and readers are each site's own business.
 * The order of regions decides which output of the network is which region. JSON objects on the
   store are sorted by key, so a ``dataset.json`` of the federation carries the order in
   ``label_order``; :func:`ordered` puts labels and channels in the order that nnU-Net relies on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError, MalformedError

_FORMAT_HINT = "write it as nnU-Net v2 wants it, see dataset_format.md in its documentation"
LABEL_ORDER = "label_order"


def read_json(path: Path) -> Any:
    """Read a local JSON file.

    Raises:
        DatasetError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read: {error.strerror}.",
            hint="check the path, its owner and its permissions",
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{path} is not valid JSON: {error}.",
            hint=_FORMAT_HINT,
        ) from error


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Read and check the ``dataset.json`` of a raw dataset; ``modality`` becomes channel names.

    Raises:
        DatasetError: it cannot be read, or nnU-Net could not train with it.
    """
    path = folder / "dataset.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path} is not a JSON object.",
            hint=_FORMAT_HINT,
        )
    names = channel_names(content)
    if not names or sorted(names, key=int) != [str(i) for i in range(len(names))]:
        raise DatasetError(
            f"In {path}, channel_names must number the channels 0, 1, 2 and so on.",
            hint=_FORMAT_HINT,
        )
    labels = content.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise DatasetError(
            f"In {path}, labels must map names to numbers, with background 0.",
            hint="nnU-Net v1 wrote labels the other way round; see nnU-Net's dataset_format.md",
        )
    if not isinstance(content.get("file_ending"), str):
        raise DatasetError(
            f"In {path}, file_ending is missing.",
            hint=_FORMAT_HINT,
        )
    if has_regions(content) and not content.get("regions_class_order"):
        raise DatasetError(
            f"In {path}, regions_class_order is missing although labels are regions.",
            hint=_FORMAT_HINT,
        )
    return {**content, "channel_names": names}


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
