"""Tensors of which every site keeps values of its own: those of normalisation layers (FedBN).

Scale and shift of a normalisation layer, and its running statistics where it has them, follow a
site's scanner more than any other tensor. FedBN (Li et al. 2021, arXiv:2102.07623) averages all
others.

Rules:
 * The name alone decides, so that sites, aggregator and auditor agree without being told: nnU-Net's
   blocks keep their layer as ``norm``. Before version 0 is published, the names are compared with
   the layers of the network (:mod:`fedfs.nnunet.plan.plans`).
 * In no update and no new version (``withheld``); or in both, for exports alone (``averaged``): a
   site goes on with its own values in either case.
 * Before its first update a site has the values of the version that it begins with.
"""

import re
from collections.abc import Iterable

from fedfs.aggregation.alignment import SHAPE_SEPARATOR
from fedfs.protocol.messages import NORM, Charter

_NORMALISATION = re.compile(
    r"(?:.*\.)?(?:norm|bn)[0-9]*\.(?:weight|bias|running_mean|running_var)", re.DOTALL
)


def is_normalisation(name: str) -> bool:
    """Return whether a tensor is of a normalisation layer, by its own or its canonical name.

    >>> is_normalisation("encoder.stages.0.0.convs.0.norm.weight")
    True
    >>> is_normalisation("encoder.stages.0.0.convs.0.conv.weight")
    False
    """
    return _NORMALISATION.fullmatch(name.partition(SHAPE_SEPARATOR)[0]) is not None


def local_names(charter: Charter, names: Iterable[str]) -> frozenset[str]:
    """Return those names of tensors of which every site of a study keeps its own values."""
    if charter.keep_local != NORM:
        return frozenset()
    return frozenset(name for name in names if is_normalisation(name))


def withheld_names(charter: Charter, names: Iterable[str]) -> frozenset[str]:
    """Return those names of tensors that are in no update."""
    return local_names(charter, names) if charter.withholds else frozenset()
