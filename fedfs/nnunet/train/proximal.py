"""FedProx's proximal term in the loss of nnU-Net's trainer (Li et al. 2020, arXiv:1812.06127).

Rules:
 * The trainer's loss is wrapped, and nothing else of it is touched: ``mu / 2 * ||w - w_base||^2``
   is added where gradients are recorded. Validation has nnU-Net's own loss, and checkpoints hold
   no loss. What the trainer logs and clips (nnU-Net: norms of gradients above 12) has the term in.
 * Without the term the trainer has the very loss that it made itself.
 * The base is what the round started from, also after a restart in its middle.
 * ``w`` are the parameters that are trained, each storage once, under canonical names (see
   :mod:`fedfs.tensors.canonical`). Buffers, such as running means, follow no gradient.
 * The term is formed in float32 whatever autocast does, from a copy of the base that lies on the
   device of the weights and is as large as they are.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from fedfs.errors import TensorError, TrainingError
from fedfs.learner import Tensors
from fedfs.nnunet.allowed import classes
from fedfs.tensors.canonical import canonical_names

_Pair = tuple[torch.Tensor, torch.Tensor]


class ProximalLoss(nn.Module):
    """A loss plus ``mu / 2`` times the squared distance of weights from their base.

    Args:
        loss: nnU-Net's; takes what the network gives and the target, each a tensor or a list.
        pairs: parameters, and where each of them started, float32.
        mu: above 0.
    """

    def __init__(self, loss: Any, pairs: Sequence[_Pair], mu: float) -> None:
        super().__init__()
        self.loss = loss
        self._pairs = tuple(pairs)  # a tuple, so that torch does not take them for its own
        self._mu = mu

    def forward(self, *args: Any) -> Any:
        """Return the loss, with the term if gradients are recorded."""
        loss = self.loss(*args)
        if not self._pairs or not torch.is_grad_enabled():
            return loss
        squares = [(weight.float() - base).square().sum() for weight, base in self._pairs]
        return loss + self._mu / 2 * torch.stack(squares).sum()


def attach(trainer: Any, base: Tensors, *, mu: float, private: Collection[str]) -> None:
    """Hold a trainer's weights to ``base`` from now on, and to no earlier base.

    Args:
        trainer: initialised.
        base: canonical tensors that the round started from.
        mu: weight of the term; 0 for none.
        private: canonical names of tensors that are left alone.

    Raises:
        TensorError: ``base`` lacks a parameter, or has another shape.
    """
    detach(trainer)
    if mu:
        pairs = _pairs(classes.plain_module(trainer), base, private)
        trainer.loss = ProximalLoss(trainer.loss, pairs, mu)


def detach(trainer: Any) -> None:
    """Give a trainer its own loss back."""
    if isinstance(trainer.loss, ProximalLoss):
        trainer.loss = trainer.loss.loss


def check_attached(trainer: Any) -> None:
    """See that a trainer still has the term.

    nnU-Net 2.8 makes its loss once, in ``initialize``; a trainer might do it again.

    Raises:
        TrainingError: it has not.
    """
    if not isinstance(trainer.loss, ProximalLoss):
        raise TrainingError(
            f"{type(trainer).__name__} replaced its loss while it trained: FedProx's term is lost.",
            kind="crash",
            hint="choose another trainer, or a study without FedProx",
        )


def _pairs(module: nn.Module, base: Tensors, private: Collection[str]) -> list[_Pair]:
    state = module.state_dict(keep_vars=True)
    pairs = []
    for name, aliases in canonical_names(state).items():
        weight = next((state[alias] for alias in aliases if state[alias].requires_grad), None)
        if weight is None or name in private:
            continue
        if name not in base:
            raise TensorError(f"lacks the tensor {name!r}", about="the base of this round")
        start = torch.tensor(base[name], dtype=torch.float32, device=weight.device)
        if start.shape != weight.shape:
            raise TensorError(
                f"is {list(weight.shape)}, and {list(start.shape)} in the base",
                about=f"the tensor {name!r}",
            )
        pairs.append((weight, start))
    return pairs
