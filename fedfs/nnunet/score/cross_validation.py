"""Scores the final models of all configurations and folds at a site, as nnU-Net compares them.

nnU-Net's ``find_best_configuration`` collects the validation predictions of all folds, averages the
probabilities of every two configurations, scores all of them, and tries postprocessing on the best.
Here every candidate is scored with every postprocessing that might be tried on it, as it takes all
sites to say which one is the best. Prediction, averaging, components and Dice are nnU-Net's; what
is added up are the Dice of single cases (:mod:`fedfs.aggregation.best_configuration`).

Runs in a process of its own, see :mod:`fedfs.nnunet.system.isolated`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.aggregation.best_configuration import (
    FOREGROUND,
    JOINT,
    Candidates,
    CrossValidated,
    candidates_of,
    steps_of,
)
from fedfs.errors import SetupError
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.data.dataset_json import has_regions, read_json
from fedfs.nnunet.score.summary import class_names, classes_of
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings, NnUNetPaths, set_variables
from fedfs.nnunet.system.workers import map_cases
from fedfs.protocol.messages import DiceSum

_Seg = npt.NDArray[np.generic]
_Scores = dict[str, dict[str, dict[str, float]]]
"""Candidate -> steps -> class -> Dice of a case."""


@dataclass(frozen=True, kw_only=True)
class CrossValidationRequest:
    """Models to score on a site's validation cases, and their folders.

    Attributes:
        paths: nnU-Net's folders.
        dataset: ``DatasetXXX_NAME``.
        models: configuration -> name of its model's folder below the dataset's.
        folds: that were trained.
        cases: that the site takes part with; ``splits_final.json`` may name others, too.
        host: as many of its processes score cases at the same time.
    """

    paths: NnUNetPaths
    dataset: str
    models: Mapping[str, str]
    folds: Sequence[str]
    cases: Sequence[str]
    host: HostSettings = DEFAULT_HOST


@dataclass(frozen=True)
class _Job:
    """One case: its reference, and where the configurations' predictions are."""

    name: str
    reference: str
    predictions: Mapping[str, str]
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]


def cross_validate(request: CrossValidationRequest, on_progress: OnProgress) -> CrossValidated:
    """Return the sums of Dice over the cases of all folds.

    A case that a fold trained on does not count. In a case that several folds predict, the first
    one counts.

    Raises:
        SetupError: predictions are missing.
        TrainingError: a case cannot be scored.
    """
    paths = request.paths
    folder = paths.results / request.dataset
    first = folder / next(iter(request.models.values()))
    plans, dataset_json = read_json(first / "plans.json"), read_json(first / "dataset.json")
    ending = str(dataset_json["file_ending"])
    jobs = []
    of_folds = _cases(paths.preprocessed / request.dataset, request.folds)
    for case, fold in of_folds.items():
        if case not in request.cases:  # left out: broken, or added later
            continue
        found = {
            name: folder / model / f"fold_{fold}" / "validation" / f"{case}{ending}"
            for name, model in request.models.items()
        }
        missing = [path for path in found.values() if not path.exists()]
        if missing:
            raise SetupError(
                f"{missing[0]} is not there any more, so that models cannot be compared.",
                hint="restore nnUNet_results, or leave the study's choice to the others: "
                "fedfs site leave",
            )
        reference = paths.preprocessed / request.dataset / "gt_segmentations" / f"{case}{ending}"
        jobs.append(
            _Job(case, str(reference), {n: str(p) for n, p in found.items()}, plans, dataset_json)
        )
    scores: list[_Scores] = []
    with set_variables(paths.variables()):
        on_progress(Progress("cross-validate", 0, len(jobs), "case"))
        for one in map_cases(_score, jobs, num_processes=request.host.num_processes):
            scores.append(one)
            on_progress(Progress("cross-validate", len(scores), len(jobs), "case"))
    return CrossValidated(_summed(scores, list(request.models), dataset_json), len(jobs))


def _cases(folder: Path, folds: Sequence[str]) -> dict[str, str]:
    """Return case -> the fold whose validation case it is, and that did not train on it."""
    splits = read_json(folder / "splits_final.json")
    out: dict[str, str] = {}
    for fold in folds:
        split = splits[int(fold)] if int(fold) < len(splits) else {"train": [], "val": []}
        for case in split["val"]:
            if case not in split["train"]:
                out.setdefault(str(case), fold)
    return out


def _summed(
    scores: Sequence[_Scores], configurations: Sequence[str], dataset_json: Mapping[str, Any]
) -> Candidates:
    def total(candidate: str, steps: str, key: str) -> DiceSum:
        dice = [one[candidate][steps][key] for one in scores]
        defined = [value for value in dice if not np.isnan(value)]
        return DiceSum(float(np.sum(defined)), len(defined))

    keys = class_names(dataset_json).values()
    chains = [JOINT.join(steps) for steps in _steps(dataset_json)]
    return {
        one: {steps: {key: total(one, steps, key) for key in keys} for steps in chains}
        for one in map(JOINT.join, candidates_of(configurations))
    }


def _steps(dataset_json: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = class_names(dataset_json)
    return steps_of(list(names.values()), overlap=has_regions(dataset_json))


def _score(job: _Job) -> _Scores:
    """Return the scores of a case; its Dice is NaN where a class does not occur."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(job.plans))
    labels = manager.get_label_manager(dict(job.dataset_json))
    reader = manager.image_reader_writer_class()
    reference = reader.read_seg(job.reference)[0][0]
    ignored = reference == labels.ignore_label if labels.has_ignore_label else None
    keys = classes_of(labels, job.dataset_json)
    out: _Scores = {}
    for candidate in candidates_of(list(job.predictions)):
        files = [job.predictions[name] for name in candidate]
        prediction = _prediction(files, job.dataset_json["file_ending"], reader, labels)
        out[JOINT.join(candidate)] = {
            JOINT.join(steps): {
                key: _dice(reference, after, one, ignored) for key, one in keys.items()
            }
            for steps, after in _postprocessed(
                prediction, _steps(job.dataset_json), {FOREGROUND: labels.foreground_labels, **keys}
            )
        }
    return out


def _prediction(files: Sequence[str], ending: str, reader: Any, labels: Any) -> _Seg:
    """Return a configuration's segmentation, or that of an ensemble's mean probabilities."""
    if len(files) == 1:
        segmentation: _Seg = reader.read_seg(files[0])[0][0]
        return segmentation
    from nnunetv2.ensembling.ensemble import average_probabilities

    averaged = average_probabilities([f"{file.removesuffix(ending)}.npz" for file in files])
    ensembled: _Seg = labels.convert_probabilities_to_segmentation(averaged)
    return ensembled


def _postprocessed(
    prediction: _Seg, chains: Sequence[tuple[str, ...]], what: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], _Seg]]:
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation as keep_largest,
    )

    done: dict[tuple[str, ...], _Seg] = {(): prediction}
    for steps in chains:  # a chain comes behind its beginnings
        for n in range(1, len(steps) + 1):
            if steps[:n] not in done:
                done[steps[:n]] = keep_largest(done[steps[: n - 1]], what[steps[n - 1]])
        yield steps, done[steps]


def _dice(reference: _Seg, prediction: _Seg, one: Any, ignored: Any) -> float:
    from nnunetv2.evaluation.evaluate_predictions import (
        compute_tp_fp_fn_tn,
        region_or_label_to_mask,
    )

    masks = region_or_label_to_mask(reference, one), region_or_label_to_mask(prediction, one)
    tp, fp, fn, _ = compute_tp_fp_fn_tn(*masks, ignored)
    return float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
