"""Adopts the federated plan at a site: writes it where nnU-Net looks, preprocesses the cases.

Rules:
 * Plan, ``dataset.json`` and preprocessed cases lie where ``nnUNetv2_train`` finds them.
 * What is there already and is not ours is not overwritten: a different plan of the same name, a
   ``dataset.json`` of other labels.
 * A case is preprocessed in a hidden sub-folder and moved when it is whole, its ``.pkl`` last. A
   kill leaves whole cases, and the next start does the missing ones.
 * What is preprocessed already, by fedfs or by nnU-Net's commands, is used where that is sound, see
   :mod:`fedfs.nnunet.data.reuse`.
"""

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError, SetupError
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.data import reuse
from fedfs.nnunet.data.broken_cases import OnBroken
from fedfs.nnunet.data.dataset import Case, RawDataset
from fedfs.nnunet.data.dataset_json import difference, read_json
from fedfs.nnunet.data.integrity import check_whole
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.nnunet.system.workers import map_cases


def adopt(plans: Mapping[str, Any], dataset: RawDataset, reader: str) -> dict[str, Any]:
    """Return the federated plan with this site's dataset name and reader, else unchanged."""
    return {**plans, "dataset_name": dataset.name, "image_reader_writer": reader}


def write_plans(plans: Mapping[str, Any], dataset: RawDataset, paths: NnUNetPaths) -> None:
    """Write plan and ``dataset.json`` to ``nnUNet_preprocessed``.

    Raises:
        SetupError: another plan of this name is there.
        DatasetError: a ``dataset.json`` with other labels or channels is there.
    """
    folder = paths.preprocessed / dataset.name
    target = folder / f"{plans['plans_name']}.json"
    if not target.exists():
        files.write_json(target, plans)
    elif read_json(target) != json.loads(json.dumps(plans)):
        raise SetupError(
            f"{target} is a different plan of the same name.",
            hint="it may belong to an earlier study: move it away, with the folders of its data",
        )
    own = folder / "dataset.json"
    if not own.exists():
        files.copy(dataset.folder / "dataset.json", own)
    elif differences := difference(dataset.dataset_json, read_json(own)):
        raise DatasetError(
            f"{own} disagrees with that of the raw dataset: {'; '.join(differences)}.",
            hint="it is left from an earlier state of the dataset: remove it",
        )


def preprocess(
    plans: Mapping[str, Any],
    configuration: str,
    dataset: RawDataset,
    paths: NnUNetPaths,
    *,
    num_processes: int,
    on_progress: OnProgress,
    on_broken: OnBroken | None = None,
) -> None:
    """Preprocess every case that is not preprocessed yet.

    Args:
        plans: as adopted.
        configuration: of them.
        dataset: the raw dataset.
        paths: nnU-Net's folders.
        num_processes: 1 works in this process.
        on_progress: progress callback.
        on_broken: called with each case that is left out as unusable; None stops at the first.

    Raises:
        SetupError: somebody else preprocessed something else there.
        TrainingError: a case cannot be processed, or memory ran out.
    """
    settings = allowlist.resolve(plans["configurations"], configuration)
    folder = paths.preprocessed / dataset.name / str(settings["data_identifier"])
    reuse.trust_or_clear(folder, plans, settings, dataset)
    partial = folder / reuse.HIDDEN / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for known in reuse.copy_from_others(partial, folder, plans, settings, dataset):
        _publish(partial, folder, known.name)
    missing = [c for c in dataset.cases if not (folder / f"{c.name}.pkl").exists()]
    done, total = len(dataset.cases) - len(missing), len(dataset.cases)
    on_progress(Progress("preprocess", done, total, "case"))
    run = functools.partial(
        _preprocess,
        folder=partial,
        plans=plans,
        configuration=configuration,
        dataset_json=dataset.dataset_json,
    )
    for case in map_cases(run, missing, num_processes=num_processes, on_broken=on_broken):
        _publish(partial, folder, case)
        done += 1
        on_progress(Progress("preprocess", done, total, "case"))
    shutil.rmtree(partial)  # holds what is left of cases that failed
    whole = {case.name for case in dataset.cases if (folder / f"{case.name}.pkl").exists()}
    _copy_references([case for case in dataset.cases if case.name in whole], dataset, paths)


def check_previous_stage(
    plans: Mapping[str, Any], dataset: RawDataset, settings: LearnerSettings
) -> None:
    """Check that a cascade's second stage finds the segmentations of its first.

    Raises:
        SetupError: they are missing.
    """
    name = settings.configuration
    previous = allowlist.resolve(plans["configurations"], name).get("previous_stage")
    if previous is None:
        return
    model = f"{settings.trainer}__{plans['plans_name']}__{previous}"
    folder = settings.paths.results / dataset.name / model / "predicted_next_stage" / name
    if any(not (folder / f"{case.name}.b2nd").exists() for case in dataset.cases):
        raise SetupError(
            f"{name} continues {previous}, whose segmentations are not all in {folder}.",
            hint=f"finish a study of {previous} with the same plans and trainer first",
        )


def _preprocess(
    case: Case,
    *,
    folder: Path,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
) -> str:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    check_whole((*case.images, case.label))
    manager = PlansManager(dict(plans))
    settings = manager.get_configuration(configuration)
    settings.preprocessor_class(verbose=False).run_case_save(
        str(folder / case.name),
        [str(path) for path in case.images],
        str(case.label),
        manager,
        settings,
        dict(dataset_json),
    )
    return case.name


def _publish(partial: Path, folder: Path, case: str) -> None:
    names = [case + ending for ending in reuse.ENDINGS]
    for name in names:
        files.sync(partial / name)
    for name in names:
        os.replace(partial / name, folder / name)  # noqa: PTH105  says that it overwrites
    files.sync(folder)


def _copy_references(cases: Sequence[Case], dataset: RawDataset, paths: NnUNetPaths) -> None:
    """Copy the segmentations nnU-Net validates against, where they are newer."""
    folder = paths.preprocessed / dataset.name / "gt_segmentations"
    for case in cases:
        target = folder / (case.name + str(dataset.dataset_json["file_ending"]))
        if not target.exists() or target.stat().st_mtime < case.label.stat().st_mtime:
            files.copy(case.label, target)
