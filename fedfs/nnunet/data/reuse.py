"""Reuse of preprocessed cases: our own, or those of nnU-Net's commands.

Rules:
 * A marker in the folder names everything the result depends on. It goes with the folder when
   ``nnUNetv2_preprocess`` makes that anew.
 * Without a marker the folder is somebody's work: it is used or left alone, never cleared. nnU-Net
   writes no plan into it. So it is used where the plan of this name is the study's, which
   :func:`fedfs.nnunet.data.preprocess.write_plans` has seen to, and each case is newer than this
   plan
   and than its images: then no other plan and no other images can have made it.
 * Cases that another plan of the dataset made with the same settings are copied: that of a study
   which this one continues, say, whose plan has another name.
 * What fedfs made itself may be made again, and cases that left the dataset are removed from it:
   nnU-Net trains on whatever lies there.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import FedfsError, SetupError
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.data.dataset import Case, RawDataset
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.system import files

log = logging.getLogger(__name__)

HIDDEN = ".fedfs"
"""fedfs's own folder among the preprocessed cases."""
ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
"""File endings of a preprocessed case; the last is written last."""

_MARKER = "made_with.json"
_BY, _NNUNET, _FEDFS = "made_by", "nnU-Net", "fedfs"
_DECIDES = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
    "patch_size",
)


def trust_or_clear(
    folder: Path, plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset: RawDataset
) -> None:
    """Leave in ``folder`` only what can be trained on.

    Args:
        folder: of the configuration's preprocessed cases; its parent holds the plan.
        plans: as adopted, and as they are on disk.
        configuration: of them, with what it inherits.
        dataset: the raw dataset.

    Raises:
        SetupError: it holds work of somebody else that does not fit, or may not.
    """
    path, sha256 = folder / HIDDEN / _MARKER, _made_with(plans, configuration, dataset)
    known = read_json(path) if path.exists() else None
    strangers = sorted(_files(folder) - {c.name + end for c in dataset.cases for end in ENDINGS})
    if known is None or known.get(_BY) == _NNUNET:
        found = len(_files(folder))
        if known is not None and known.get("sha256") != sha256:
            _refuse(folder, "the dataset has changed since")
        if strangers:
            _refuse(folder, f"{strangers[0]} belongs to no case of the dataset")
        if known is None:
            _check_ages(folder, folder.parent / f"{plans['plans_name']}.json", dataset)
            if found:
                log.info("preprocessed data in %s are used again", folder)
            files.write_json(path, {"sha256": sha256, _BY: _NNUNET if found else _FEDFS})
        return
    if known.get("sha256") != sha256:
        log.info("%s was made with other settings; its cases are preprocessed again", folder)
        _clear(folder)
        files.write_json(path, {"sha256": sha256, _BY: _FEDFS})
        return
    for name in strangers:
        (folder / name).unlink()
    for case in dataset.cases:
        made = [path for path in _made(case, folder) if path.exists()]
        if made and _newer(made, _sources(case)):
            log.warning("case %s has changed: it is preprocessed again", case.name)
            for path in reversed(made):  # the last one made says that a case is whole
                path.unlink()


def copy_from_others(
    partial: Path,
    folder: Path,
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    dataset: RawDataset,
) -> Iterator[Case]:
    """Yield the cases that ``folder`` lacks and another folder has, once they are in ``partial``.

    Args:
        partial: folder to copy them to.
        folder: of the configuration's preprocessed cases.
        plans: as adopted.
        configuration: of them, with what it inherits.
        dataset: the raw dataset.
    """
    missing = [c for c in dataset.cases if not (folder / f"{c.name}.pkl").exists()]
    if not missing:
        return
    for other, plan in _folders_like(folder, _made_with(plans, configuration, dataset), dataset):
        current = [case for case in missing if _is_current(case, other, plan)]
        if current:
            log.info("%s: %d preprocessed cases are copied from %s", folder, len(current), other)
        for case in current:
            for ending in ENDINGS:
                files.copy(other / (case.name + ending), partial / (case.name + ending))
            missing.remove(case)
            yield case


def _folders_like(folder: Path, sha256: str, dataset: RawDataset) -> Iterator[tuple[Path, Path]]:
    """Yield folders whose cases were preprocessed as in ``folder``, and the plan that says so."""
    for plan in sorted(folder.parent.glob("*.json")):
        try:
            plans = read_json(plan)
            for name in plans["configurations"]:
                settings = allowlist.resolve(plans["configurations"], name)
                other = folder.parent / str(settings["data_identifier"])
                if other != folder and _made_with(plans, settings, dataset) == sha256:
                    yield other, plan
        except (AttributeError, KeyError, TypeError, FedfsError):
            continue  # no plan, or one that nnU-Net could not read either


def _is_current(case: Case, folder: Path, plan: Path) -> bool:
    made = _made(case, folder)
    return all(path.exists() for path in made) and not _newer(made, (plan, *_sources(case)))


def _made(case: Case, folder: Path) -> list[Path]:
    return [folder / (case.name + ending) for ending in ENDINGS]


def _sources(case: Case) -> tuple[Path, ...]:
    return (*case.images, case.label)


def _newer(made: Sequence[Path], sources: Sequence[Path]) -> list[Path]:
    """Return what is newer than the files that were made from it."""
    age = min(path.stat().st_mtime_ns for path in made)
    return [source for source in sources if source.stat().st_mtime_ns > age]


def _made_with(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset: RawDataset
) -> str:
    decides = {key: configuration.get(key) for key in _DECIDES}
    for key in ("transpose_forward", "foreground_intensity_properties_per_channel",
                "image_reader_writer", "label_manager"):  # fmt: skip
        decides[key] = plans[key]
    for key in ("labels", "regions_class_order"):
        decides[key] = dataset.dataset_json.get(key)
    return files.json_sha256(decides)


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*") if path.is_file()}


def _check_ages(folder: Path, plan: Path, dataset: RawDataset) -> None:
    for case in dataset.cases:
        made = _made(case, folder)
        if not made[-1].exists():  # not made, or not to its end: it is made now
            continue
        lacking = [path.name for path in made if not path.exists()]
        if lacking:
            _refuse(folder, f"{lacking[0]} is missing")
        newer = _newer(made, (plan, *_sources(case)))
        if newer:
            _refuse(folder, f"{case.name} is older than {newer[0]}")


def _refuse(folder: Path, why: str) -> None:
    raise SetupError(
        f"{folder} was not preprocessed by fedfs, and not surely with this study's plan from these "
        f"images: {why}.",
        hint="move it away, or preprocess again with nnUNetv2_preprocess and this plan",
    )


def _clear(folder: Path) -> None:
    """Remove a folder of ours, its marker last: what a kill leaves is still known as ours."""
    for name in _files(folder):
        (folder / name).unlink()
    shutil.rmtree(folder)
