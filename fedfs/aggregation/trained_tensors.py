"""Tensors that a study trains, where it trains a part of a network; all others are frozen.

Rules:
 * The name alone decides, by patterns of the charter: a group of :data:`GROUPS`, the name of a
   tensor, or a name with ``*``, ``?`` or ``[...]`` as in a shell. One that fits is enough.
 * Updates and versions hold what is trained, and nothing else.
 * Frozen tensors are those of the weights that the charter names, bit by bit, at every site; the
   charter has their hash.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import TensorError
from fedfs.protocol.messages import Charter
from fedfs.tensors.encodings.base import SEPARATOR

_SEGMENTATION_LAYERS = ".seg_layers."


def is_segmentation_layer(name: str) -> bool:
    """Return whether a tensor belongs to a layer that scores classes.

    >>> is_segmentation_layer("decoder.seg_layers.0.bias")
    True
    """
    return _SEGMENTATION_LAYERS in f".{name}"


GROUPS: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {"norm": is_normalisation, "heads": is_segmentation_layer}
)
"""Name of a group -> whether a tensor is of it: normalisation layers, segmentation layers."""


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern names a tensor.

    >>> matches("decoder.stages.4.convs.0.conv.bias", "decoder.stages.4.*")
    True
    """
    group = GROUPS.get(pattern)
    return group(name) if group is not None else fnmatch.fnmatchcase(name, pattern)


def is_trained(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a tensor is trained under these patterns.

    >>> is_trained("decoder.seg_layers.0.bias", ["norm", "heads"])
    True
    """
    return any(matches(name, pattern) for pattern in patterns)


def frozen_names(charter: Charter, names: Iterable[str]) -> list[str]:
    """Return those names of tensors that a study leaves as they are, ascending."""
    if charter.train_only is None:
        return []
    patterns = charter.train_only.patterns
    return sorted(name for name in names if not is_trained(name, patterns))


def check_no_frozen(charter: Charter, payload: Iterable[str]) -> None:
    """Check that an update holds no tensor that the study leaves as it is.

    Args:
        charter: of the study.
        payload: names of the tensors in the update's file.

    Raises:
        TensorError: it does.
    """
    names = frozen_names(charter, {name.partition(SEPARATOR)[0] for name in payload})
    if names and charter.train_only is not None:
        raise TensorError(
            f"is frozen: this study trains {', '.join(charter.train_only.patterns)} only",
            about=f"the tensor {names[0]!r}",
        )
