"""Errors of nnU-Net, translated into the kinds of a failure record."""

from fedfs.errors import TrainingError

_LOST_WORKER = "background worker"


def translate(error: Exception) -> TrainingError:
    """Return the failure that an exception out of nnU-Net stands for."""
    import torch

    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in ("out of memory", "can't allocate memory"))
    ):
        return TrainingError(
            "Out of memory.",
            kind="out-of-memory",
            hint="free the GPU, or ask the coordinator for a plan with a smaller "
            "gpu_memory_target_gb",
        )
    if isinstance(error, RuntimeError) and _LOST_WORKER in text:
        return TrainingError(
            "A data-loading worker of nnU-Net died.",
            kind="data-loader",
            hint="it may have been killed for want of memory: lower nnUNet_n_proc_DA",
        )
    if isinstance(error, OSError) or "PytorchStreamWriter" in text:
        return TrainingError(
            f"Cannot read or write: {text[:300]}.",
            kind="disk",
            hint="look for a full disk or a folder that is read-only",
        )
    return TrainingError(
        f"nnU-Net failed: {type(error).__name__}: {text[:300]}.",
        kind="crash",
        hint="the log of this host has all that nnU-Net printed",
    )
