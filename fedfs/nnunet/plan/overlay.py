"""Initial weights taken from a network of another depth, as far as its tensors fit.

Rules:
 * A tensor fits if it has the same canonical name, which holds its shape, under the study's
   alignment; see :mod:`fedfs.aggregation.alignment`.
 * Segmentation layers keep their own values, as in nnU-Net's own fine-tuning.
 * What fits nowhere keeps its own value: that is the point of it, not a mistake.
"""

import logging
from pathlib import Path

import numpy as np

from fedfs.aggregation.alignment import canonical_names, own_names
from fedfs.aggregation.trained_tensors import is_segmentation_layer
from fedfs.learner import Array, Tensors
from fedfs.tensors.canonical import TensorFile

log = logging.getLogger(__name__)


def overlay_tensors(tensors: Tensors, pretrained: Path, *, alignment: str) -> dict[str, Array]:
    """Return a network's tensors, with those values of another network that fit.

    Args:
        tensors: of the network, by own names.
        pretrained: safetensors file of the other, by its own names.
        alignment: one of :data:`fedfs.aggregation.alignment.ALIGNMENTS`.

    Raises:
        UserError: the alignment is not known.
        TensorError: the file is damaged, or its names are ambiguous.
    """
    canonical = canonical_names({name: v.shape for name, v in tensors.items()}, alignment)
    out = dict(tensors)
    with TensorFile(pretrained) as given:
        theirs = own_names({name: given.shape(name) for name in given.names}, alignment)
        taken = [
            name
            for name in tensors
            if canonical[name] in theirs and not is_segmentation_layer(name)
        ]
        for name in taken:
            out[name] = np.asarray(given[theirs[canonical[name]]], dtype=np.float32)
    log.info("%d of %d tensors start from pretrained values", len(taken), len(out))
    return out
