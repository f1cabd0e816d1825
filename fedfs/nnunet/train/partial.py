"""Training of some values of a trainer's tensors, while the others keep their bits.

Rules:
 * After each step of the optimizer the others are what they were when the round began, also after a
   restart in its middle: no gradient, momentum or weight decay moves them.
 * The optimizer sees all gradients, so that a value whose turn comes has its momentum already.
 * A trainer that replaces its optimizer in a round trains all values; what an update does not carry
   of that stays at the site, and is added to its next.
 * Buffers, such as running means, follow no optimizer.
 * Where the values began lies on the device of the weights, beside a byte for each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from fedfs.errors import TensorError
from fedfs.learner import PartialTraining, Tensors
from fedfs.nnunet.allowed import classes
from fedfs.tensors.canonical import canonical_names
from fedfs.tensors.encodings.randk import is_sent

_Held = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A parameter, which of its values are trained, and where they all began."""


def hold(trainer: Any, base: Tensors, partial: PartialTraining | None) -> RemovableHandle | None:
    """Let a trainer move no other values than those that ``partial`` says.

    Args:
        trainer: initialised.
        base: canonical tensors that the round started from.
        partial: None for all values.

    Returns:
        What ends it.

    Raises:
        TensorError: ``base`` lacks a parameter, or has another shape.
    """
    if partial is None:
        return None
    held = _held(classes.plain_module(trainer), base, partial)

    @torch.no_grad()
    def put_back(*_: Any) -> None:
        for weight, is_trained, began in held:
            weight.copy_(torch.where(is_trained, weight, began))

    handle: RemovableHandle = trainer.optimizer.register_step_post_hook(put_back)
    return handle


def _held(module: torch.nn.Module, base: Tensors, partial: PartialTraining) -> Sequence[_Held]:
    state = module.state_dict(keep_vars=True)
    held = []
    for name, aliases in canonical_names(state).items():
        weight = next((state[alias] for alias in aliases if state[alias].requires_grad), None)
        if weight is None or name not in partial.names:
            continue
        if name not in base or base[name].shape != tuple(weight.shape):
            raise TensorError("is not that of the network", about=f"the base of {name!r}")
        began = np.asarray(base[name], dtype=np.float32)
        is_trained = is_sent(partial.names[name], began, partial.fraction)
        if not is_trained.all():
            device, dtype = weight.device, weight.dtype
            held.append(
                (
                    weight,
                    torch.tensor(is_trained, device=device),
                    torch.tensor(began, dtype=dtype, device=device),
                )
            )
    return held
