"""A round on several GPUs of this host, as nnU-Net trains on them: by a process for each.

Rules:
 * A round has as many iterations as on one GPU.
 * The processes live for one round. They go on from the site's checkpoint, as a site does that was
   started again, and the first of them writes the next; the others write nothing.
 * If the site's process is killed, they are too.

This is the site's own process. It starts one by :mod:`fedfs.nnunet.system.isolated`, which starts
the others (:mod:`fedfs.nnunet.child_round`). :mod:`fedfs.nnunet.train.ranks` has what their
trainers need.
"""

import dataclasses
import gc
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import SetupError
from fedfs.learner import OnProgress, RoundTask, Tensors, TrainResult
from fedfs.nnunet.allowed import allowlist, classes
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import isolated
from fedfs.nnunet.system.environment import HostSettings
from fedfs.tensors.canonical import TensorFile, write_safetensors

_ROOM = "round-"


@dataclass(frozen=True, kw_only=True)
class RoundRequest:
    """A round that a process for each GPU trains.

    Attributes:
        settings: of the site, without its planning: the plan has been made.
        plans: as the site has adopted them.
        task: the round.
        tensors: safetensors file to start from.
        output: safetensors file to write.
    """

    settings: LearnerSettings
    plans: Mapping[str, Any]
    task: RoundTask
    tensors: Path
    output: Path


def train(
    settings: LearnerSettings,
    plans: Mapping[str, Any],
    task: RoundTask,
    tensors: Tensors,
    on_progress: OnProgress,
) -> TrainResult:
    """Train a round; in the site's own process.

    Raises:
        SetupError: there are not so many GPUs, or no such batch, or the trainer does not allow it.
        TrainingError: as :meth:`fedfs.nnunet.nnunet_learner.NnUNetLearner.train`.
    """
    _check_batch(
        allowlist.resolve(plans["configurations"], settings.configuration), settings.host.num_gpus
    )
    _free_memory()
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    for left in settings.state_dir.glob(f"{_ROOM}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_ROOM, dir=settings.state_dir) as folder:
        start, end = Path(folder, "start.safetensors"), Path(folder, "end.safetensors")
        write_safetensors(start, tensors)
        request = RoundRequest(
            settings=dataclasses.replace(settings, planning=None),
            plans=plans,
            task=task,
            tensors=start,
            output=end,
        )
        result = isolated.run_isolated(
            "train_round", request, workdir=Path(folder), on_progress=on_progress,
            environ=settings.paths.variables(),
        )  # fmt: skip
        with TensorFile(end) as file:
            return TrainResult(tensors=dict(file), **result)


def _check_batch(configuration: Mapping[str, Any], n_gpus: int) -> None:
    """Check that nnU-Net can divide a batch.

    With batch Dice it adds up what all GPUs have of a batch, which needs as much from each.
    """
    batch = int(configuration["batch_size"])
    usable = [
        n
        for n in range(1, min(batch, n_gpus) + 1)
        if not configuration["batch_dice"] or batch % n == 0
    ]
    if n_gpus not in usable:
        raise SetupError(
            f"A batch of {batch} cannot be divided among {n_gpus} GPUs"
            + (": its Dice needs as much of it on each." if n_gpus <= batch else "."),
            hint=f"give --num-gpus {usable[-1]}; the batch size is the plan's",
        )


def check_devices(host: HostSettings) -> str:
    """Return the type of the devices that a round is trained on.

    Raises:
        SetupError: nnU-Net does not train on several of these, or there are fewer here.
    """
    import torch

    device = str(classes.device(host.device).type)
    if device == "cuda" and torch.cuda.device_count() < host.num_gpus:
        raise SetupError(
            f"This host has {torch.cuda.device_count()} GPUs, not {host.num_gpus}.",
            hint="give fewer with --num-gpus; CUDA_VISIBLE_DEVICES says which are seen",
        )
    if device != "cuda" and host.device != "cpu":
        raise SetupError(
            f"nnU-Net trains on several CUDA devices only, and this host has {device}.",
            hint="leave out --num-gpus",
        )
    return device


def _free_memory() -> None:
    """Give back what the site's process holds of a GPU's memory, which the processes need."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
