"""Tensors of a trainer's network that keep their bits while the others are trained.

Rules:
 * A frozen parameter has no gradient, and no optimizer has it: no weight decay, no momentum. That
   is settled before nnU-Net wraps the network for several GPUs, whenever it makes an optimizer.
 * A layer any of whose running statistics is frozen normalises by them, as when it predicts, and
   does not update them.
 * Whoever trains compares the bits afterwards: a trainer may write what has no gradient.
"""

from collections.abc import Collection
from typing import Any

from fedfs.errors import TensorError
from fedfs.nnunet.allowed import classes
from fedfs.tensors.canonical import canonical_names


def freeze(trainer: Any, names: Collection[str]) -> None:
    """Let a trainer that is not initialised yet freeze these tensors when it makes its network.

    Args:
        trainer: nnU-Net's.
        names: canonical names.
    """
    if not names:
        return
    original = trainer.configure_optimizers

    def configure_optimizers() -> Any:
        for tensor in _tensors(classes.plain_module(trainer), names).values():
            tensor.requires_grad_(requires_grad=False)
        made = original()
        for group in made[0].param_groups:
            group["params"] = [one for one in group["params"] if one.requires_grad]
        return made

    trainer.configure_optimizers = configure_optimizers


def hold_statistics(trainer: Any, names: Collection[str]) -> None:
    """Let layers with frozen running statistics use them; nnU-Net's epochs begin in another mode.

    Raises:
        TensorError: the network has no such tensor.
    """
    if not names:
        return
    from torch.nn.modules.batchnorm import _NormBase

    module = classes.plain_module(trainer)
    frozen = {id(tensor) for tensor in _tensors(module, names).values()}
    for layer in module.modules():
        statistics = {id(one) for one in layer.buffers(recurse=False)}
        if isinstance(layer, _NormBase) and statistics & frozen:
            layer.eval()


def _tensors(module: Any, names: Collection[str]) -> dict[str, Any]:
    """Return every alias of these tensors.

    Raises:
        TensorError: the network has no such tensor.
    """
    state = module.state_dict(keep_vars=True)
    aliases = canonical_names(state)
    missing = sorted(set(names) - set(aliases))
    if missing:
        raise TensorError(
            "is to be frozen, and the network has none", about=f"the tensor {missing[0]!r}"
        )
    return {alias: state[alias] for name in names for alias in aliases[name]}
