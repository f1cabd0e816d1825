"""Files of a trained nnU-Net: its model folder, or a zip of ``nnUNetv2_export_model_to_zip``.

Rules:
 * Of a zip only the files that are needed are taken, by names of our own: where they would go to in
   it decides nothing. Sizes are bounded by what the zip says, and it is read no further.
 * The folds are those that ``nnUNetv2_predict`` takes by itself: all that have a final checkpoint,
   and the fold ``all`` only where there is no other.
 * The module is pure but for files: it imports nothing of nnU-Net.
"""

import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fedfs.errors import FedfsError, UserError
from fedfs.nnunet.data.dataset_json import LABEL_ORDER, read_dataset_json, read_json

CHECKPOINT = "checkpoint_final.pth"
MAX_JSON_BYTES = 16 * 2**20
MAX_CHECKPOINT_BYTES = 16 * 2**30

_FOLD = re.compile(r"fold_(\d{1,3}|all)")
_HINT = (
    "give the folder that holds plans.json, as .../nnUNetTrainer__nnUNetPlans__2d, or a zip that "
    "nnUNetv2_export_model_to_zip wrote"
)


@dataclass(frozen=True)
class ModelFiles:
    """Content of a model folder.

    Attributes:
        plans, dataset_json: as JSON values; with ``label_order``, as a study needs it.
        checkpoints: fold -> its final checkpoint, which has not been looked at.
    """

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    checkpoints: dict[str, Path]


def find_model(path: Path, room: Path) -> ModelFiles:
    """Return what a model folder or a zip of one holds.

    Args:
        path: the folder or the file.
        room: empty folder that what is in a zip is unpacked to.

    Raises:
        UserError: it is neither, or not complete.
    """
    if path.is_dir():
        return _in_folder(path, path)
    if not path.exists():
        raise UserError(f"There is no {path}.", hint=_HINT)
    return _in_folder(_unpack(path, room), path)


def _in_folder(folder: Path, shown: Path) -> ModelFiles:
    """Read a folder; ``shown`` is what its user knows it by."""
    for name in ("plans.json", "dataset.json"):
        file = folder / name
        if not file.is_file():
            raise UserError(f"{shown} is not a model of nnU-Net: it has no {name}.", hint=_HINT)
        if file.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"The {name} of {shown} is larger than any of nnU-Net.", hint=_HINT)
    try:
        plans, dataset_json = read_json(folder / "plans.json"), read_dataset_json(folder)
    except FedfsError as error:
        raise UserError(f"{shown} cannot be used: {error}", hint=error.hint) from error
    if not isinstance(plans, dict):
        raise UserError(f"The plans.json of {shown} is not a JSON object.", hint=_HINT)
    found = {match[1]: folder / match[0] / CHECKPOINT for match in _folds(folder)}
    checkpoints = {fold: path for fold, path in sorted(found.items()) if path.is_file()}
    if len(checkpoints) > 1:
        checkpoints.pop("all", None)
    if not checkpoints:
        raise UserError(
            f"{shown} has no fold with a {CHECKPOINT}.", hint="train it to the end, or export it"
        )
    content = {**dataset_json, LABEL_ORDER: list(dataset_json["labels"])}
    return ModelFiles(plans, content, checkpoints)


def _folds(folder: Path) -> Iterator[re.Match[str]]:
    matches = (_FOLD.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return (match for match in matches if match is not None)


def _unpack(path: Path, room: Path) -> Path:
    """Unpack the one model that a zip holds; return its folder.

    Raises:
        UserError: it is no such zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = _members(path, archive)
            for name, info in wanted.items():
                target = room / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} is not a zip that can be read: {error}.", hint=_HINT) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked: {error.strerror or error}.",
            hint="check its permissions and the free space",
        ) from error
    return room


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return name within a model folder -> what a zip has there, of the files that are needed."""
    found: dict[PurePosixPath, dict[str, zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise UserError(f"{path} names a file outside of it: {info.filename!r}.", hint=_HINT)
        is_checkpoint = name.name == CHECKPOINT and _FOLD.fullmatch(name.parent.name)
        if name.name not in ("plans.json", "dataset.json") and not is_checkpoint:
            continue
        model = name.parent.parent if is_checkpoint else name.parent
        if model.name.count("__") != 2:  # noqa: PLR2004  TRAINER__PLANS__CONFIGURATION
            continue
        own = found.setdefault(model, {})
        within = str(name.relative_to(model))
        if within in own:
            raise UserError(f"{path} holds {info.filename} twice.", hint=_HINT)
        if info.file_size > (MAX_CHECKPOINT_BYTES if is_checkpoint else MAX_JSON_BYTES):
            raise UserError(f"In {path}, {info.filename} is larger than any of nnU-Net.")
        own[within] = info
    if len(found) != 1:
        names = ", ".join(sorted(model.name for model in found)) or "none"
        raise UserError(
            f"{path} holds {len(found)} models, not one: {names}.",
            hint="unpack it, and give the folder of each model that is to be evaluated",
        )
    return next(iter(found.values()))
