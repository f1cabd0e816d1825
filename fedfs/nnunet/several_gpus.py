"""A round on several GPUs of this host, as nnU-Net trains on them: by a process for each.

Rules:
 * nnU-Net's trainer finds torch.distributed at work and does the rest: it divides the batch, wraps
   the network, gathers losses and scores. A round has as many iterations as on one GPU.
 * The processes live for one round. They go on from the site's checkpoint, as a site does that was
   started again, and the first of them writes the next; the others write nothing.
 * What the clock decides, the first decides for all: who left the loop alone would wait for ever.
 * In the end all have the same weights, bit for bit, or the round has failed.
 * If one process fails, all end. If the site's process is killed, they are too.
 * A process whose work is done leaves without tearing down the interpreter, which sometimes aborts
   while threads of torch are still ending.
 * They meet by a file in a folder of theirs, where nnU-Net takes a port.
 * nnU-Net does this on CUDA devices only. On a CPU, where tests run, its processes find each other
   by gloo instead of nccl, and :func:`settle_on_cpu` puts the wrapper around the network.

The site's own process starts one that starts the others, by :mod:`fedfs.nnunet.process`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedfs.checkpoint import TensorFile, weights_sha256, write_safetensors
from fedfs.errors import FedfsError, SetupError, TrainingError
from fedfs.learner import Progress, Report, RoundTask, Tensors, TrainResult
from fedfs.nnunet import allowlist, classes, process
from fedfs.nnunet.environment import NnUNetPaths
from fedfs.nnunet.settings import LearnerSettings

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_ROOM = "round-"


@dataclass(frozen=True, kw_only=True)
class RoundRequest:
    """A round, as JSON values.

    Attributes:
        settings: fields of the site's :class:`LearnerSettings`; paths as text.
        plans: as the site has adopted them.
        task: fields of the :class:`RoundTask`.
        tensors: safetensors file to start from.
        output: safetensors file to write.
        num_gpus: how many processes.
    """

    settings: Mapping[str, Any]
    plans: Mapping[str, Any]
    task: Mapping[str, Any]
    tensors: str
    output: str
    num_gpus: int


def train(
    settings: LearnerSettings,
    plans: Mapping[str, Any],
    task: RoundTask,
    tensors: Tensors,
    report: Report,
) -> TrainResult:
    """Train a round; in the site's own process.

    Raises:
        SetupError: there are not so many GPUs, or no such batch, or the trainer does not allow it.
        TrainingError: as :meth:`fedfs.nnunet.learner.NnUNetLearner.train`.
    """
    _check_batch(
        allowlist.resolved(plans["configurations"], settings.configuration), settings.num_gpus
    )
    _free_memory()
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    for left in settings.state_dir.glob(f"{_ROOM}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_ROOM, dir=settings.state_dir) as folder:
        start, end = Path(folder, "start.safetensors"), Path(folder, "end.safetensors")
        write_safetensors(start, tensors)
        request = RoundRequest(
            settings=_as_json(settings),
            plans=plans,
            task={**dataclasses.asdict(task), "private": sorted(task.private)},
            tensors=str(start),
            output=str(end),
            num_gpus=settings.num_gpus,
        )
        said = process.run_isolated(
            "train_round", request, workdir=Path(folder), report=report,
            environ=settings.paths.variables(),
        )  # fmt: skip
        with TensorFile(end) as file:
            return TrainResult(tensors=dict(file), **said)


def _check_batch(configuration: Mapping[str, Any], num_gpus: int) -> None:
    """Check that nnU-Net can divide a batch.

    With batch Dice it adds up what all GPUs have of a batch, which needs as much from each.
    """
    batch = int(configuration["batch_size"])
    usable = [
        n
        for n in range(1, min(batch, num_gpus) + 1)
        if not configuration["batch_dice"] or batch % n == 0
    ]
    if num_gpus not in usable:
        raise SetupError(
            f"a batch of {batch} cannot be divided among {num_gpus} GPUs"
            + (": its Dice needs as much of it on each" if num_gpus <= batch else ""),
            hint=f"give --num-gpus {usable[-1]}; the batch size is the plan's",
        )


def check_devices(name: str | None, num_gpus: int) -> str:
    """Return the type of the devices that a round is trained on.

    Raises:
        SetupError: nnU-Net does not train on several of these, or there are fewer here.
    """
    import torch

    device = str(classes.device(name).type)
    if device == "cuda" and torch.cuda.device_count() < num_gpus:
        raise SetupError(
            f"this host has {torch.cuda.device_count()} GPUs, not {num_gpus}",
            hint="give fewer with --num-gpus; CUDA_VISIBLE_DEVICES says which are seen",
        )
    if device != "cuda" and name != "cpu":
        raise SetupError(
            f"nnU-Net trains on several CUDA devices only, and this host has {device}",
            hint="leave out --num-gpus",
        )
    return device


def train_round(request: RoundRequest, report: Report) -> dict[str, Any]:
    """Start a process for each GPU, and wait for them; return the result but for its tensors.

    Raises:
        FedfsError: what one of them raised.
        TrainingError: one of them ended otherwise.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    device = check_devices(request.settings["device"], request.num_gpus)
    room = Path(request.output).parent
    reader, writer = get_context("spawn").Pipe(duplex=False)
    started = spawn(  # type: ignore[no-untyped-call]
        _work, args=(request, device, room, writer), nprocs=request.num_gpus, join=False
    )
    try:
        while not started.join(timeout=0):
            if reader in wait([reader, *started.sentinels]):
                report(Progress(**reader.recv()))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _failure(room, error) from error
    while reader.poll():
        report(Progress(**reader.recv()))
    result: dict[str, Any] = json.loads((room / "result.json").read_text(encoding="utf-8"))
    return result


def settle_on_cpu(trainer: Any) -> None:
    """Make a trainer that takes part in distributed training work on the CPU.

    nnU-Net's takes the GPU of its rank, whatever it was told, and its wrapper needs one. Between
    the optimizer and the loss, where nnU-Net wraps the network, this does so without a device.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    configure_optimizers, build_loss = trainer.configure_optimizers, trainer._build_loss  # noqa: SLF001  a hook of nnU-Net's

    def without_wrapper() -> Any:
        trainer.is_ddp = False
        return configure_optimizers()

    def with_wrapper() -> Any:
        trainer.is_ddp = True
        trainer.network = DistributedDataParallel(trainer.network)
        return build_loss()

    trainer.configure_optimizers, trainer._build_loss = without_wrapper, with_wrapper  # noqa: SLF001  same


def split_once(trainer: Any) -> None:
    """Have the first process write nnU-Net's splits, if there are none, before others read them."""
    from torch import distributed

    if trainer.local_rank == 0:
        trainer.do_split()
    distributed.barrier()


def require_one(trainer: Any) -> None:
    """Check that a trainer works alone, where it has to load a checkpoint of its own making.

    Raises:
        SetupError: it does not.
    """
    if trainer.is_ddp:
        raise SetupError(
            f"trainer {type(trainer).__name__} cannot enter at another epoch on several GPUs",
            hint="leave out --num-gpus for this round",
        )


def agreed(trainer: Any, value: Any) -> Any:
    """Return what the first process says; alone, the value itself. All have to call it."""
    if not trainer.is_ddp:
        return value
    from torch import distributed

    said = [value]
    distributed.broadcast_object_list(said, src=0, device=trainer.device)
    return said[0]


def _work(rank: int, request: RoundRequest, device: str, room: Path, writer: Any) -> None:
    """Train in one of the processes."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    starter = parent_process()
    if starter is not None and os.getppid() != starter.pid:  # it was killed before that
        os._exit(1)
    try:
        _train(rank, request, device, room, writer)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    except FedfsError as error:
        # The first error is the cause; the others lose their connection then.
        fields = process.as_json(error)
        with (room / f"error-{rank}").open("w", encoding="utf-8") as file:
            json.dump(fields, file)
        try:
            os.link(file.name, room / "error.json")
        except FileExistsError:
            log.debug("another process was faster")
        raise


def _train(rank: int, request: RoundRequest, device: str, room: Path, writer: Any) -> None:
    import torch
    from torch import distributed

    from fedfs.nnunet.learner import NnUNetLearner

    def report(progress: Progress) -> None:
        if rank == 0:
            writer.send(dataclasses.asdict(progress))

    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{room}/rendezvous",
        rank=rank,
        world_size=request.num_gpus,
    )
    learner = NnUNetLearner(_from_json({**request.settings, "device": device}))
    learner.take_over(request.plans)
    task = RoundTask(**{**request.task, "private": frozenset(request.task["private"])})
    try:
        with TensorFile(Path(request.tensors)) as tensors:
            result = learner.train(task, dict(tensors), report)
        hashes: list[Any] = [None] * request.num_gpus
        distributed.all_gather_object(hashes, weights_sha256(result.tensors))
        if len(set(hashes)) > 1:
            raise TrainingError("the GPUs ended with different weights", kind="crash")
        if rank == 0:
            write_safetensors(Path(request.output), result.tensors)
            said = {name: value for name, value in vars(result).items() if name != "tensors"}
            (room / "result.json").write_text(json.dumps(said), encoding="utf-8")
    finally:
        learner.close()
    distributed.destroy_process_group()


def _failure(room: Path, error: Any) -> FedfsError:
    said = room / "error.json"
    if said.exists():
        return process.from_json(json.loads(said.read_text(encoding="utf-8")))
    if getattr(error, "signal_name", None) == "SIGKILL":
        return TrainingError(
            "a process of this round was killed, probably for want of memory",
            kind="out-of-memory",
            hint="free memory on this host, or lower nnUNet_n_proc_DA: each GPU has such workers",
        )
    last = str(error).strip().splitlines()[-1]
    return TrainingError(f"a process of this round failed: {last[:300]}", kind="crash")


def _free_memory() -> None:
    """Give back what the site's process holds of a GPU's memory, which the processes need."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _as_json(settings: LearnerSettings) -> dict[str, Any]:
    fields = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(settings).items()
    }
    paths = {name: str(path) for name, path in vars(settings.paths).items()}
    return {**fields, "paths": paths, "planning": None, "num_gpus": 1}


def _from_json(fields: Mapping[str, Any]) -> LearnerSettings:
    lists = {n: tuple(v) for n, v in fields.items() if isinstance(v, list)}
    broken_list = fields["broken_list"]
    return LearnerSettings(
        **{
            **fields,
            **lists,
            "paths": NnUNetPaths(**{name: Path(path) for name, path in fields["paths"].items()}),
            "state_dir": Path(fields["state_dir"]),
            "broken_list": None if broken_list is None else Path(broken_list),
        }
    )
