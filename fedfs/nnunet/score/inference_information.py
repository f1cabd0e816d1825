"""Files of ``nnUNetv2_find_best_configuration``, for a choice that all sites made together.

Where nnU-Net has a cross-validation's predictions, there is only what they add up to. The files
that predicting takes are the same: ``postprocessing.pkl`` for ``nnUNetv2_apply_postprocessing``
beside ``plans.json``, ``inference_information.json`` and ``inference_instructions.txt``.

Runs in a process of its own, see :mod:`fedfs.nnunet.system.isolated`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation.best_configuration import FOREGROUND, JOINT
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.summary import classes_of
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import NnUNetPaths, set_variables
from fedfs.nnunet.system.output import capture_output

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ChoiceRequest:
    """A choice, and the exported models that it is made of.

    Attributes:
        results: results folder that the models have been exported to.
        dataset: ``DatasetXXX_NAME`` there.
        models: configuration -> name of its folder; all that were tried.
        folds: of each.
        candidate, steps, dice, dice_after, classes: see
            :class:`fedfs.protocol.messages.Choice`.
    """

    results: str
    dataset: str
    models: Mapping[str, str]
    folds: Sequence[str]
    candidate: str
    steps: Sequence[str]
    dice: Mapping[str, float | None]
    dice_after: float
    classes: Mapping[str, Sequence[float | None]]


def write_choice(request: ChoiceRequest) -> Path:
    """Write the files; return the folder of ``postprocessing.pkl``.

    Raises:
        MalformedError: a name is refused.
    """
    from batchgenerators.utilities.file_and_folder_operations import save_pickle
    from nnunetv2.evaluation.find_best_configuration import print_inference_instructions

    allowlist.check_dataset_name(request.dataset)
    folder = Path(request.results) / request.dataset
    chosen = [request.models[name] for name in request.candidate.split(JOINT)]
    folds = tuple(int(fold) for fold in request.folds)
    made = _folder(folder, chosen, folds)
    made.mkdir(parents=True, exist_ok=True)
    for name in ("plans.json", "dataset.json"):
        files.copy(folder / chosen[0] / name, made / name)
    functions, kwargs = _postprocessing(request.steps, read_json(made / "dataset.json"), made)
    save_pickle((functions, kwargs), str(made / "postprocessing.pkl"))
    files.write_json(
        made / "postprocessing.json",
        {
            "classes": {name: list(pair) for name, pair in request.classes.items()},
            "foreground_mean": [request.dice[request.candidate], request.dice_after],
            "postprocessing_fns": [function.__name__ for function in functions],
            "postprocessing_kwargs": [_plain(one) for one in kwargs],
        },
    )
    information = {
        "folds": list(folds),
        "dataset_name_or_id": request.dataset,
        "considered_models": [_identifiers(name) for name in request.models.values()],
        "ensembling_allowed": True,
        "all_results": dict(request.dice),
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": request.dice[request.candidate],
            "result_on_crossval_post_pp": request.dice_after,
            "postprocessing_file": str(made / "postprocessing.pkl"),
            "some_plans_file": str(made / "plans.json"),
            "selected_model_or_models": [
                {"configuration": configuration, "trainer": trainer, "plans_identifier": plans}
                for trainer, plans, configuration in (name.split("__") for name in chosen)
            ],
        },
    }
    files.write_json(folder / "inference_information.json", information)
    # nnU-Net wants all three; only the results are looked at
    paths = NnUNetPaths(Path(request.results), Path(request.results), Path(request.results))
    with set_variables(paths.variables()), capture_output(log):
        print_inference_instructions(information, str(folder / "inference_instructions.txt"))
    return made


def _folder(folder: Path, models: Sequence[str], folds: tuple[int, ...]) -> Path:
    """Return where nnU-Net puts the cross-validation of a model or ensemble."""
    from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string, get_ensemble_name

    if len(models) == 1:
        return folder / models[0] / f"crossval_results_folds_{folds_tuple_to_string(folds)}"
    return folder / "ensembles" / str(get_ensemble_name(*models, folds))


def _postprocessing(
    steps: Sequence[str], dataset_json: Mapping[str, Any], made: Path
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the functions of nnU-Net's postprocessing, and what they are called with."""
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation as keep_largest,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(made / "plans.json")).get_label_manager(dict(dataset_json))
    what = {FOREGROUND: manager.foreground_labels, **classes_of(manager, dataset_json)}
    kwargs = [{"labels_or_regions": what[step]} for step in steps]
    return [keep_largest] * len(kwargs), kwargs


def _identifiers(model: str) -> dict[str, str]:
    trainer, plans, configuration = model.split("__")
    return {"plans": plans, "configuration": configuration, "trainer": trainer}


def _plain(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in kwargs.items()}
