"""nnU-Net's classes by name, and trainers made from them.

Rules:
 * Classes are looked for where nnU-Net looks, in nnunetv2's own package; a trainer also in folders
   of this host, if its operator allows that, see :mod:`fedfs.nnunet.allowed.trainers`. nnU-Net
   looks for planners nowhere else.
 * A trainer is made as ``nnUNetv2_train`` makes it. What fedfs changes, it changes on the instance.
 * A trainer that overrides what fedfs does not call is refused.
 * nnU-Net's logger for Weights & Biases is off, whatever this host's variables say, but for the
   training of a host whose operator asks for it: nothing but the store is connected to.
"""

import copy
import inspect
import logging
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fedfs.errors import SetupError
from fedfs.nnunet.allowed import allowlist, trainers
from fedfs.nnunet.settings import TrainerSettings
from fedfs.nnunet.system.environment import WANDB, set_variables

log = logging.getLogger(__name__)

_DECIDE_RESULTS = ("nnunetv2", "torch", "batchgeneratorsv2", "dynamic-network-architectures")


def versions() -> dict[str, str]:
    """Return versions of the packages that decide results, without importing them."""
    return {name: metadata.version(name) for name in _DECIDE_RESULTS}


def trainer_class(name: str, allowed: Collection[str] = ()) -> type[Any]:
    """Return the trainer class ``name``.

    Args:
        name: of nnU-Net's own, or of one that this host's operator allows.
        allowed: names that this host's operator allows.

    Raises:
        MalformedError: it is not an identifier.
        SetupError: there is no such trainer, or not for this host, or it cannot be federated.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    found = _own("trainer", name, "training.nnUNetTrainer", nnUNetTrainer)
    if found is None:
        found = trainers.find(name, allowed, nnUNetTrainer)
    if found.run_training is not nnUNetTrainer.run_training:
        raise SetupError(
            f"Trainer {name} cannot be federated: it has a run_training of its own.",
            hint="fedfs runs the epochs in its place; trainers may override every other hook",
        )
    return found


def planner_class(name: str) -> type[Any]:
    """Return nnU-Net's planner class ``name``.

    Raises:
        SetupError: nnunetv2 has no such planner.
    """
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    found = _own("planner", name, "experiment_planning", ExperimentPlanner)
    if found is None:
        raise SetupError(
            f"nnunetv2 {metadata.version('nnunetv2')} has no planner {name}.",
            hint="is the name right? All hosts need the same version of nnunetv2",
        )
    return found


def usual_gpu_memory_gb(planner: str) -> float:
    """Return the GPU memory that a planner plans for where nobody says another.

    Raises:
        SetupError: nnunetv2 has no such planner.
    """
    parameters = inspect.signature(planner_class(planner)).parameters
    return float(parameters["gpu_memory_target_in_gb"].default)


def make_trainer(
    settings: TrainerSettings,
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    *,
    wandb: bool = False,
) -> Any:
    """Return a trainer, not initialised yet, whose output goes to its log file and our log.

    nnU-Net's variables must be set: the constructor creates the trainer's output folder. It also
    makes the trainer's loggers, so that what ``wandb`` says holds for the trainer's whole life.
    """
    chosen = trainer_class(settings.trainer, settings.host.allowed_trainers)
    with set_variables({WANDB: str(int(wandb))}):
        trainer = chosen(
            plans={**copy.deepcopy(dict(plans)), "continue_training": False},
            configuration=settings.configuration,
            fold=fold_of(settings.fold),
            dataset_json=copy.deepcopy(dict(dataset_json)),
            device=device(settings.host.device),
        )
    if trainer.device.type == "cuda":  # as nnU-Net's own command does
        import torch

        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    return trainer


def fold_of(text: str) -> int | str:
    """Return a fold as nnU-Net wants it: ``all`` or an integer.

    Raises:
        SetupError: neither.
    """
    if text == "all":
        return text
    if not text.isdecimal() or len(text) > 3:  # noqa: PLR2004  nobody has a thousand folds
        raise SetupError(f"Fold {text!r} is neither a number nor all.", hint="give 0 to 4, or all")
    return int(text)


def plain_module(trainer: Any) -> Any:
    """Return the trainer's network without the wrappers of torch.compile and DDP."""
    network = trainer.network
    for wrapper in ("module", "_orig_mod"):
        network = getattr(network, wrapper, network)
    return network


def loads_by_itself(trainer: Any) -> bool:
    """Return whether loading a checkpoint is more for a trainer than nnU-Net's own makes of it."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return type(trainer).load_checkpoint is not nnUNetTrainer.load_checkpoint


def initialize_without_data(trainer: Any) -> None:
    """Run the trainer's own ``initialize`` where nothing has been preprocessed.

    nnU-Net looks at the preprocessed folder for its file format; an empty file answers.
    """
    folder = Path(trainer.preprocessed_dataset_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "none.b2nd").touch()
    trainer.initialize()


def _own(kind: str, name: str, package: str, base: type[Any]) -> type[Any] | None:
    """Return nnunetv2's own class of that name; None if it has none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    allowlist.check_name(kind, name)
    root = Path(nnunetv2.__path__[0])
    found = recursive_find_python_class(
        str(root.joinpath(*package.split("."))), name, f"nnunetv2.{package}", str(root)
    )
    if not (isinstance(found, type) and issubclass(found, base)):
        return None
    return found if found.__module__.startswith("nnunetv2.") else None


def device(name: str | None) -> Any:
    """Return the torch device of that name; None for the best there is.

    Raises:
        SetupError: there is no such device here.
    """
    import torch

    if name is None:
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
        log.info("device: %s", name)
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError("No CUDA device is available.", hint="choose --device cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise SetupError(
            f"Device {name!r} is none of cpu, cuda, mps.", hint="choose one of these with --device"
        )
    return torch.device(name)
