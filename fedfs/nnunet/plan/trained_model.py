"""A trained nnU-Net, read as data: plans, classes' names and tensors, and no code of it run.

Rules:
 * Checkpoints are pickles: torch reads tensors and harmless types from them, and nothing else.
 * Plans pass the allow-list, and the network is counted before it is built; its trainer is a class
   of this host. The tensors have to be those of that network.
 * Runs in a process of its own, see :mod:`fedfs.nnunet.system.isolated`.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.errors import RejectedError, SetupError, UserError
from fedfs.learner import Array
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.plan.model_files import ModelFiles, find_model
from fedfs.nnunet.plan.plans import WeightsRequest, initial_tensors
from fedfs.nnunet.plan.pretrained import load_checkpoint, tensors_of
from fedfs.nnunet.plan.published import check_size
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings
from fedfs.tensors.canonical import write_safetensors


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """A model to read.

    Attributes:
        path: model folder, or a zip of one.
        output: folder for a safetensors file of each fold.
        host: trainers that its operator allows.
    """

    path: str
    output: str
    host: HostSettings = DEFAULT_HOST


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained nnU-Net.

    Attributes:
        plans: nnU-Net plans.
        dataset_json: what it was trained for, with ``label_order``.
        trainer, configuration: nnU-Net's names.
        folds: fold -> safetensors file of its canonical tensors.
    """

    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    trainer: str
    configuration: str
    folds: Mapping[str, str]


def read_model(request: ReadRequest) -> TrainedModel:
    """Read a model folder or zip, and write the networks of its folds to ``request.output``.

    Raises:
        UserError: it is no model of nnU-Net, is not complete, or cannot be evaluated by itself.
        SetupError: nnunetv2 has no such trainer, or not for this host.
    """
    path, output = Path(request.path), Path(request.output)
    with tempfile.TemporaryDirectory(prefix="unpacked-", dir=output) as room:
        found = find_model(path, Path(room))
        networks, names = {}, set()
        for fold, checkpoint in found.checkpoints.items():
            content = load_checkpoint(checkpoint)
            names.add(_names(content, f"fold_{fold} of {path}"))
            networks[fold] = tensors_of(content, checkpoint)
    if len(names) > 1:
        raise UserError(
            f"The folds of {path} are of different trainers or configurations.",
            hint="give a model folder as nnU-Net fills it",
        )
    trainer, configuration = names.pop()
    expected = _network(path, found, trainer, configuration, request.host)
    folds = {}
    for fold, tensors in networks.items():
        _check_tensors(tensors, expected, f"fold_{fold} of {path}")
        folds[fold] = str(output / f"fold_{fold}.safetensors")
        write_safetensors(Path(folds[fold]), tensors)
    return TrainedModel(
        plans=found.plans,
        dataset_json=found.dataset_json,
        trainer=trainer,
        configuration=configuration,
        folds=folds,
    )


def _names(content: Mapping[str, Any], of: str) -> tuple[str, str]:
    """Return the trainer and the configuration that a checkpoint names."""
    arguments = content.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    names = content.get("trainer_name"), configuration
    if not all(isinstance(name, str) for name in names):
        raise UserError(
            f"The checkpoint of {of} names no trainer or configuration.",
            hint="give a model that nnU-Net v2 has trained",
        )
    return str(names[0]), str(names[1])


def _network(
    path: Path, found: ModelFiles, trainer: str, configuration: str, host: HostSettings
) -> dict[str, Array]:
    """Return the tensors of a network that is built from the plans."""
    try:
        allowlist.check_plans(found.plans, configuration)
        check_size(found.plans, configuration, found.dataset_json)
    except RejectedError as error:
        raise UserError(
            f"The plans.json of {path} are refused: {error.reason}.",
            hint="fedfs builds the networks that nnU-Net itself plans, and no others",
        ) from error
    settings = allowlist.resolve(found.plans["configurations"], configuration)
    if settings.get("previous_stage") is not None:
        raise UserError(
            f"{path} is the second stage of a cascade, which needs predictions of the first.",
            hint="give a model of one stage",
        )
    try:
        return initial_tensors(
            WeightsRequest(
                plans=found.plans,
                dataset_json=found.dataset_json,
                trainer=trainer,
                configuration=configuration,
                seed=0,
                output="",
                host=host,
            )
        )
    except RejectedError as error:
        raise SetupError(
            f"The model {path} was trained by {trainer!r}, which cannot be used: {error.reason}.",
            hint="give a model of a trainer that nnunetv2 has",
        ) from error


def _check_tensors(tensors: Mapping[str, Array], expected: Mapping[str, Array], of: str) -> None:
    shapes = {name: array.shape for name, array in expected.items()}
    found = {name: array.shape for name, array in tensors.items()}
    differs = sorted(name for name in shapes.keys() | found if shapes.get(name) != found.get(name))
    if differs:
        raise UserError(
            f"The checkpoint of {of} is not of the network that its plans describe: "
            f"{differs[0]} has the shape {found.get(differs[0])}, not {shapes.get(differs[0])}.",
            hint="plans.json and checkpoint have to be of the same training",
        )
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"The checkpoint of {of} holds values in {name} that are not finite.",
                hint="its training has failed; give another model",
            )
