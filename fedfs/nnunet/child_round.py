"""The processes of a round on several GPUs.

The child of :mod:`fedfs.nnunet.system.isolated` starts a process for each GPU; its parent's side,
and the rules, are in :mod:`fedfs.nnunet.train.parallel`.

Rules:
 * In the end all have the same weights, bit for bit, or the round has failed.
 * If one process fails, all end. If the process that started them is killed, they are too.
 * A process whose work is done leaves without tearing down the interpreter, which sometimes aborts
   while threads of torch are still ending.
 * They meet by a file in a folder of theirs, where nnU-Net takes a port.
 * On a CPU, where tests run, they find each other by gloo instead of nccl.
"""

import dataclasses
import json
import logging
import os
import sys
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedfs.errors import FedfsError, TrainingError
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.system import isolated
from fedfs.nnunet.system.workers import end_with_parent
from fedfs.nnunet.train.parallel import RoundRequest, check_devices
from fedfs.tensors.canonical import TensorFile, weights_sha256, write_safetensors

log = logging.getLogger(__name__)


def train_round(request: RoundRequest, on_progress: OnProgress) -> dict[str, Any]:
    """Start a process for each GPU, and wait for them; return the result but for its tensors.

    Raises:
        FedfsError: what one of them raised.
        TrainingError: one of them ended otherwise.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    host = request.settings.host
    device = check_devices(host)
    room = request.output.parent
    reader, writer = get_context("spawn").Pipe(duplex=False)
    started = spawn(  # type: ignore[no-untyped-call]
        _work, args=(request, device, room, writer), nprocs=host.num_gpus, join=False
    )
    try:
        while not started.join(timeout=0):
            if reader in wait([reader, *started.sentinels]):
                on_progress(Progress(**reader.recv()))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _failure(room, error) from error
    while reader.poll():
        on_progress(Progress(**reader.recv()))
    result: dict[str, Any] = json.loads((room / "result.json").read_text(encoding="utf-8"))
    return result


def _work(rank: int, request: RoundRequest, device: str, room: Path, writer: Any) -> None:
    """Train in one of the processes."""
    end_with_parent()
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
        fields = isolated.as_json(error)
        own = room / f"error-{rank}"
        own.write_text(json.dumps(fields), encoding="utf-8")
        try:
            os.link(own, room / "error.json")
        except FileExistsError:
            log.debug("another process was faster")
        raise


def _train(rank: int, request: RoundRequest, device: str, room: Path, writer: Any) -> None:
    import torch
    from torch import distributed

    n_gpus = request.settings.host.num_gpus

    def on_progress(progress: Progress) -> None:
        if rank == 0:
            writer.send(dataclasses.asdict(progress))

    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{room}/rendezvous",
        rank=rank,
        world_size=n_gpus,
    )
    settings = request.settings
    host = dataclasses.replace(settings.host, device=device, num_gpus=1)
    learner = NnUNetLearner(dataclasses.replace(settings, host=host))
    learner.take_over(request.plans)
    try:
        with TensorFile(request.tensors) as tensors:
            result = learner.train(request.task, dict(tensors), on_progress)
        hashes: list[Any] = [None] * n_gpus
        distributed.all_gather_object(hashes, weights_sha256(result.tensors))
        if len(set(hashes)) > 1:
            raise TrainingError(
                "The GPUs ended with different weights.",
                kind="crash",
                hint="start again; if it comes back, leave out --num-gpus",
            )
        if rank == 0:
            write_safetensors(request.output, result.tensors)
            fields = {name: value for name, value in vars(result).items() if name != "tensors"}
            (room / "result.json").write_text(json.dumps(fields), encoding="utf-8")
    finally:
        learner.close()
    distributed.destroy_process_group()


def _failure(room: Path, error: Any) -> FedfsError:
    first_error = room / "error.json"
    if first_error.exists():
        return isolated.from_json(json.loads(first_error.read_text(encoding="utf-8")))
    if getattr(error, "signal_name", None) == "SIGKILL":
        return TrainingError(
            "A process of this round was killed, probably for want of memory.",
            kind="out-of-memory",
            hint="free memory on this host, or lower nnUNet_n_proc_DA: each GPU has such workers",
        )
    last = str(error).strip().splitlines()[-1][:300]
    return TrainingError(
        f"A process of this round failed: {last.rstrip('.')}.",
        kind="crash",
        hint="the log of this host has all that it printed",
    )
