"""Check that the names of a network's tensors tell which of them are of normalisation layers.

Sites keep these tensors by their names alone (:mod:`fedfs.aggregation.local_tensors`). Networks of
a trainer that somebody else has written may have other names.
"""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import StudyError
from fedfs.tensors.canonical import canonical_names

_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
"""Batch and instance normalisation, and the others of torch that have parameters."""


def check_normalisation(network: nn.Module) -> None:
    """Check that every tensor of a normalisation layer has a name that says so.

    Raises:
        StudyError: one has not, or there is no such tensor.
    """
    of_layers = {
        f"{module}.{tensor}" if module else tensor
        for module, layer in network.named_modules(remove_duplicate=False)
        if isinstance(layer, _LAYERS)
        for tensor in layer.state_dict()
    }
    state = network.state_dict()
    names = canonical_names({n: value for n, value in state.items() if value.is_floating_point()})
    unknown = [
        name
        for name, aliases in names.items()
        if not of_layers.isdisjoint(aliases) and not is_normalisation(name)
    ]
    if unknown or not any(map(is_normalisation, names)):
        found = f"calls one {unknown[0]!r}" if unknown else "has none with tensors"
        raise StudyError(
            f"The network keeps its normalisation layers where fedfs does not look: it {found}.",
            hint="begin the study again without --keep-local, or with another trainer",
        )
