"""Weights of an nnU-Net checkpoint, read without running code.

A ``.pth`` file is a pickle. torch can refuse everything in it but tensors and a list of harmless
types; nnU-Net's checkpoints need numpy's numbers beside those.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.errors import UserError
from fedfs.learner import Array
from fedfs.tensors.canonical import canonical_names


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Return the canonical tensors of a checkpoint that ``nnUNetv2_train`` wrote.

    Raises:
        UserError: the file is missing, damaged, not nnU-Net's, or holds more than data.
    """
    return tensors_of(load_checkpoint(path), path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        UserError: see :func:`read_checkpoint`.
    """
    import torch

    try:
        with torch.serialization.safe_globals(harmless_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.",
            hint="give checkpoint_final.pth of a trained model",
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} is not a checkpoint of nnU-Net, or is damaged.",
            hint="give checkpoint_final.pth of a trained model",
        ) from error
    return content if isinstance(content, dict) else {}


def tensors_of(content: Mapping[str, Any], path: Path) -> dict[str, Array]:
    """Return the canonical tensors of a checkpoint's content, read from ``path``.

    Raises:
        UserError: it has none.
    """
    import torch

    weights = content.get("network_weights")
    if not isinstance(weights, dict):
        raise UserError(f"{path} holds no network_weights.", hint="give a checkpoint of nnU-Net")
    return {
        name: weights[names[0]].to(torch.float32).contiguous().numpy()
        for name, names in canonical_names(weights).items()
        if weights[names[0]].is_floating_point()
    }


def harmless_types() -> list[Any]:
    """Return what a checkpoint of nnU-Net holds beside what torch takes for data anyway."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(t)) for t in (np.float16, np.float32, np.float64, np.int64, np.bool_)]
    return [scalar, np.dtype, *dtypes]
