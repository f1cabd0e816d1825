"""Tensors that unlike networks have in common, and who shares them: asymmetric averaging.

nnU-Net numbers encoder stages from the full resolution and decoder stages from the bottleneck, so
the decoders of nets of different depth do not line up by name (Skorupko et al. 2025, AsymFedAvg).

Rules:
 * Alignment gives every tensor of a site an aligned name. Policy ``resolution`` counts the decoder
   from the output end: ``decoder.stages.r0`` is at full resolution, beside ``encoder.stages.0``.
   Policy ``name`` keeps nnU-Net's own numbers.
 * The canonical name is aligned name and shape, ``decoder.stages.r0.convs.0.conv.bias@32``. Tensors
   of one name in several shapes (another kernel size, other features, 2d beside 3d) are therefore
   different tensors, each averaged among the sites that have it. A majority rule would leave out
   sites for being fewer, would need a rule for ties, and what a name means would change with the
   roster; with the shape in the name it depends on the site alone.
 * Sharing ``per-tensor``: a canonical tensor is shared by all sites that have it, if they are two
   or more. Sharing ``intersection``, the paper's: if all sites have it.
 * What is not shared is private: it is in no result here and never leaves the site.
 * Nothing but names and shapes is looked at, so a peer's list of tensors is harmless; two tensors
   of a site that would get one canonical name are refused.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedfs.errors import TensorError, UserError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""A site's own tensor name -> shape."""
Shared = Mapping[str, tuple[str, ...]]
"""Canonical name -> the sites that share it, ascending; at least two."""

SHAPE_SEPARATOR = "@"
_FEWEST = 2
_DECODER = re.compile(r"decoder\.(stages|transpconvs|seg_layers)\.([0-9]{1,4})\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class Coverage:
    """Coverage: the share of a site's network that is shared.

    Attributes:
        n_tensors: canonical tensors that the site shares.
        of_tensors: tensors it has.
        n_parameters: values in the tensors that it shares.
        of_parameters: values in all its tensors.
    """

    n_tensors: int
    of_tensors: int
    n_parameters: int
    of_parameters: int

    @property
    def tensors(self) -> float:
        """Share of tensors, from 0 to 1."""
        return self.n_tensors / self.of_tensors if self.of_tensors else 0.0

    @property
    def parameters(self) -> float:
        """Share of parameters, from 0 to 1."""
        return self.n_parameters / self.of_parameters if self.of_parameters else 0.0


def by_name(shapes: Shapes) -> dict[str, str]:
    """Align by nnU-Net's own numbers, as the paper does: every name is its own."""
    return {name: name for name in shapes}


def by_resolution(shapes: Shapes) -> dict[str, str]:
    """Align decoders from the output end; returns a site's own name -> aligned name.

    Stages, transposed convolutions and segmentation heads are counted each on their own, from the
    last one, which is at the output: a net may have fewer heads than stages.

    >>> by_resolution({"decoder.stages.0.w": (4,), "decoder.stages.1.w": (2,)})
    {'decoder.stages.0.w': 'decoder.stages.r1.w', 'decoder.stages.1.w': 'decoder.stages.r0.w'}
    """
    matches = {name: match for name in shapes if (match := _DECODER.fullmatch(name))}
    last: dict[str, int] = {}
    for kind, number, _ in (match.groups() for match in matches.values()):
        last[kind] = max(last.get(kind, 0), int(number))
    aligned = {}
    for name in shapes:
        aligned[name] = name
        if name in matches:
            kind, number, rest = matches[name].groups()
            aligned[name] = f"decoder.{kind}.r{last[kind] - int(number)}.{rest}"
    return aligned


ALIGNMENTS: Mapping[str, Callable[[Shapes], dict[str, str]]] = MappingProxyType(
    {"resolution": by_resolution, "name": by_name}
)
"""Alignment policy -> a site's own name -> aligned name."""


SHARINGS: Mapping[str, Callable[[set[str], set[str]], bool]] = MappingProxyType(
    {
        "per-tensor": lambda sites, _: len(sites) >= _FEWEST,
        "intersection": lambda sites, everyone: len(sites) >= _FEWEST and sites == everyone,
    }
)
"""Sharing policy -> whether the sites that have a tensor share it, given all sites."""


def check_policies(alignment: str, sharing: str) -> None:
    """Check that both policies are known.

    Raises:
        UserError: listing the known ones.
    """
    for kind, name, known in (("alignment", alignment, ALIGNMENTS), ("sharing", sharing, SHARINGS)):
        if name not in known:
            raise UserError(
                f"Unknown {kind} policy {name!r}.", hint=f"known are: {', '.join(sorted(known))}"
            )


def canonical_names(shapes: Shapes, alignment: str) -> dict[str, str]:
    """Return a site's own name -> canonical name, for every tensor it has.

    Raises:
        UserError: the alignment policy is not known.
        TensorError: two tensors would get the same name, or a name holds the separator.
    """
    check_policies(alignment, "per-tensor")
    canonical = {}
    for name, aligned in ALIGNMENTS[alignment](shapes).items():
        if SHAPE_SEPARATOR in name:
            raise TensorError(f"has {SHAPE_SEPARATOR!r} in its name", about=f"the tensor {name!r}")
        canonical[name] = f"{aligned}{SHAPE_SEPARATOR}{'x'.join(map(str, shapes[name]))}"
    if len(set(canonical.values())) < len(canonical):
        raise TensorError("has two tensors of the same canonical name", about="the network")
    return canonical


def own_names(shapes: Shapes, alignment: str) -> dict[str, str]:
    """Return canonical name -> a site's own name: the inverse of :func:`canonical_names`.

    Raises: as :func:`canonical_names`.
    """
    return {canonical: own for own, canonical in canonical_names(shapes, alignment).items()}


def share(
    sites: Mapping[str, Shapes], *, alignment: str = "resolution", sharing: str = "per-tensor"
) -> dict[str, tuple[str, ...]]:
    """Return who shares what: canonical name -> sites, both ascending.

    Args:
        sites: site -> its own tensor names and shapes.
        alignment: one of :data:`ALIGNMENTS`.
        sharing: one of :data:`SHARINGS`.

    Raises:
        UserError: a policy is not known.
        TensorError: a site's tensors cannot be named; see :func:`canonical_names`.

    >>> share({"east": {"w": (2, 3)}, "north": {"w": (2, 3), "head": (4,)}})
    {'w@2x3': ('east', 'north')}
    """
    check_policies(alignment, sharing)
    owners: dict[str, set[str]] = {}
    for site, shapes in sites.items():
        for canonical in canonical_names(shapes, alignment).values():
            owners.setdefault(canonical, set()).add(site)
    everyone, shares = set(sites), SHARINGS[sharing]
    return {
        canonical: tuple(sorted(owners[canonical]))
        for canonical in sorted(owners)
        if shares(owners[canonical], everyone)
    }


def shared_names(site: str, shapes: Shapes, shared: Shared, *, alignment: str) -> dict[str, str]:
    """Return canonical name -> own name of what a site shares, and of nothing else; ascending.

    Raises:
        TensorError: ``shared`` counts the site among those that have a tensor which it has not.
        UserError: the alignment policy is not known.
    """
    own = own_names(shapes, alignment)
    mine = [canonical for canonical, sites in sorted(shared.items()) if site in sites]
    missing = [canonical for canonical in mine if canonical not in own]
    if missing:
        raise TensorError(f"has no tensor {missing[0]!r}", about=f"the network of {site}")
    return {canonical: own[canonical] for canonical in mine}


def coverage(
    sites: Mapping[str, Shapes], shared: Shared, *, alignment: str = "resolution"
) -> dict[str, Coverage]:
    """Return for each site how much of its network is shared.

    Raises: as :func:`shared_names`.
    """
    out = {}
    for site, shapes in sorted(sites.items()):
        mine = shared_names(site, shapes, shared, alignment=alignment).values()
        out[site] = Coverage(
            n_tensors=len(mine),
            of_tensors=len(shapes),
            n_parameters=sum(math.prod(shapes[name]) for name in mine),
            of_parameters=sum(math.prod(shape) for shape in shapes.values()),
        )
    return out
