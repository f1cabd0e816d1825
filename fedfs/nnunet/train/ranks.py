"""Several GPUs from within a trainer: one process, or rank, for each of them.

Rules:
 * nnU-Net's trainer finds torch.distributed at work and does the rest: it divides the batch, wraps
   the network, gathers losses and scores. Here is what it does not do.
 * What the clock decides, the first decides for all: who left the loop alone would wait for ever.
 * nnU-Net does this on CUDA devices only. On a CPU, where tests run, :func:`settle_on_cpu` puts the
   wrapper around the network.

The processes are started by :mod:`fedfs.nnunet.train.parallel`.
"""

from typing import Any

from fedfs.errors import SetupError


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
            f"Trainer {type(trainer).__name__} cannot enter at another epoch on several GPUs.",
            hint="leave out --num-gpus for this round",
        )


def broadcast_first(trainer: Any, value: Any) -> Any:
    """Return what the first process says; alone, the value itself. All have to call it."""
    if not trainer.is_ddp:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0, device=trainer.device)
    return values[0]
