"""Tensors that sites share in a study: from accepted messages to names and shapes. Pure.

Rules:
 * In the mode ``ffe`` all sites have one network, and share all of it under its own names.
 * In the mode ``asym`` the aggregator decides once, from the tensors that every site says its
   network has, and publishes the decision with the plan. Sites and aggregator then go by the plan.
 * With secure sums a tensor is shared that may be summed: so many sites have it.
 * What a site does not share is private: it is in no update and in no global version.
 * Of local tensors (:mod:`fedfs.aggregation.local_tensors`) each site has its own values. In the
   mode ``asym`` they are private. In the mode ``ffe`` versions have them, for sites to begin with:
   as version 0 has them, or their mean where they are in updates.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fedfs.aggregation import alignment
from fedfs.aggregation.alignment import Shapes
from fedfs.aggregation.local_tensors import local_names, withheld_names
from fedfs.errors import MalformedError, StudyError, TensorError
from fedfs.learner import Array, Tensors
from fedfs.protocol.messages import ASYM, AsymSpec, Charter, Participation, SitePlan
from fedfs.protocol.state import StudyState

MAX_TENSORS = 20_000
MAX_PARAMETERS = 2_000_000_000
"""Largest network that a site may announce or that is built for somebody else: 8 GB of weights.

nnU-Net's largest preset has 200 million parameters.
"""


@dataclass(frozen=True)
class Share:
    """Tensors that a site has in common with others: canonical name -> its own name.

    Attributes:
        own: of its updates.
        local: of versions, where the site has values of its own; in ``own`` only if they travel.
    """

    own: Mapping[str, str]
    local: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_versions(self) -> dict[str, str]:
        """Tensors of the site's network that versions have."""
        return {**self.local, **self.own}

    @property
    def by_own_name(self) -> dict[str, str]:
        """Own name -> canonical name, of the tensors of the site's updates."""
        return {own: name for name, own in self.own.items()}

    def compose(self, version: Tensors, private: Tensors) -> dict[str, Array]:
        """Return the site's network, by own names: tensors of a version, and private ones."""
        return {**{own: version[name] for name, own in self.in_versions.items()}, **private}

    def shared(self, network: Tensors) -> dict[str, Array]:
        """Return the shared tensors of the site's network, by canonical name."""
        return {name: network[own] for name, own in self.own.items()}

    def private(self, network: Iterable[str]) -> frozenset[str]:
        """Return the own names of the tensors of which the site has its own values."""
        return frozenset(network) - (set(self.own.values()) - set(self.local.values()))


def asym_spec(charter: Charter) -> AsymSpec | None:
    """Return how tensors are shared in the mode ``asym``; None in the other.

    Raises:
        StudyError: the charter's mode is ``asym``, but it does not say how.
    """
    if charter.mode != ASYM:
        return None
    if charter.asym is None:
        raise StudyError(
            "The charter's mode is asym, but it does not say how tensors are shared.",
            hint="ask the coordinator to begin the study again with this version of fedfs",
        )
    return charter.asym


def check_site_plan(plan: SitePlan) -> None:
    """Check that a site's list of tensors is that of a network of reasonable size.

    Raises:
        MalformedError: it is not.
    """
    if not 0 < len(plan.tensors) <= MAX_TENSORS:
        raise MalformedError(
            f"lists {len(plan.tensors)} tensors; 1 to {MAX_TENSORS} are reasonable",
            about="the plan",
        )
    if any(size < 0 for shape in plan.tensors.values() for size in shape):
        raise MalformedError("lists a tensor with a negative size", about="the plan")
    if sum(math.prod(shape) for shape in plan.tensors.values()) > MAX_PARAMETERS:
        raise MalformedError(
            f"announces a network of more than {MAX_PARAMETERS:,} parameters", about="the plan"
        )
    if plan.n_cases < 1:
        raise MalformedError(f"announces {plan.n_cases} cases", about="the plan")


def agree(
    plans: Mapping[str, Shapes], spec: AsymSpec, charter: Charter
) -> tuple[tuple[Participation, ...], dict[str, alignment.Coverage]]:
    """Decide who shares what, and say how much that is of each site's network.

    Args:
        plans: site -> own names and shapes of its tensors.
        spec: the charter's rules.
        charter: says what stays at every site.

    Raises:
        StudyError: a site would share less than the charter asks for.
        TensorError: a site's tensors cannot be named.
    """
    shared = alignment.share(plans, alignment=spec.alignment, sharing=spec.sharing)
    withheld = withheld_names(charter, shared)
    fewest = charter.secure_sums.min_sites if charter.secure_sums is not None else 1
    shared = {
        name: sites
        for name, sites in shared.items()
        if name not in withheld and len(sites) >= fewest
    }
    coverage = alignment.coverage(plans, shared, alignment=spec.alignment)
    low = {s: c for s, c in coverage.items() if c.parameters < spec.min_coverage}
    if low:
        said = ", ".join(f"{site} {cover.parameters:.1%}" for site, cover in sorted(low.items()))
        raise StudyError(
            f"Sites share less of their networks' parameters than the {spec.min_coverage:.1%} "
            f"that the charter asks for: {said}.",
            hint="a plan that is published stays: begin another study, with another --alignment, "
            "--sharing or a lower --min-coverage, or where these sites plan otherwise; or go on "
            "without them: fedfs remove",
        )
    return grouped(shared), coverage


def grouped(shared: Mapping[str, Collection[str]]) -> tuple[Participation, ...]:
    """Return tensor -> sites as one entry per set of sites, in a fixed order."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(shared):
        groups.setdefault(tuple(sorted(shared[name])), []).append(name)
    return tuple(
        Participation(sites=sites, tensors=tuple(names)) for sites, names in sorted(groups.items())
    )


def shared_by(state: StudyState) -> dict[str, tuple[str, ...]]:
    """Return canonical name -> sites that share it, both ascending; empty in the mode ``ffe``."""
    if state.plan is None:
        return {}
    later: dict[str, list[str]] = {}
    for site, admission in state.admissions.items():
        for name in admission.tensors:
            later.setdefault(name, []).append(site)
    groups = sorted((name, group) for group in state.plan.shared for name in group.tensors)
    withheld = withheld_names(state.charter, (name for name, _ in groups))
    return {
        name: tuple(sorted({*group.sites, *later.get(name, ())}))
        for name, group in groups
        if name not in withheld
    }


def join_in(
    tensors: Shapes, version: Shapes, spec: AsymSpec
) -> tuple[tuple[str, ...], alignment.Coverage]:
    """Decide what a site shares that comes after the plan: what versions have in equal shape.

    Args:
        tensors: own names and shapes of the site's tensors.
        version: canonical names and shapes of a global version's.
        spec: the charter's rules.

    Raises:
        StudyError: the site would share less than the charter asks for, or lacks a tensor where
            all sites have to have all.
        TensorError: the site's tensors cannot be named.
    """
    own = alignment.own_names(tensors, spec.alignment)
    names = tuple(
        name
        for name in sorted(version)
        if name in own and tuple(tensors[own[name]]) == tuple(version[name])
    )
    shared = dict.fromkeys(names, ("",))
    cover = alignment.coverage({"": tensors}, shared, alignment=spec.alignment)[""]
    if cover.parameters < spec.min_coverage or (
        spec.sharing == "intersection" and len(names) < len(version)
    ):
        raise StudyError(
            f"Its network shares {cover.parameters:.1%} of its parameters with the global model.",
            hint="let it plan with another memory target or spacing",
        )
    return names, cover


def tensor_participation(state: StudyState, sites: Collection[str]) -> tuple[Participation, ...]:
    """Return who of ``sites`` took part in each shared tensor; empty in the mode ``ffe``."""
    took_part = {n: [s for s in of if s in sites] for n, of in shared_by(state).items()}
    return grouped(took_part)


def share_of(state: StudyState, site: str, version: Iterable[str]) -> Share:
    """Return what ``site`` shares of the tensors of a version.

    Args:
        state: accepted messages; of site plans, the site's own is enough.
        site: the site.
        version: names of the tensors of global versions.

    Raises:
        StudyError: the plan is not there yet, or does not know the site.
        TensorError: the plan says that the site has a tensor that it has not.
    """
    spec, plan = asym_spec(state.charter), state.plan
    if plan is None:
        raise StudyError("There is no plan yet.")
    if spec is None:
        names = sorted(version)
        local = {name: name for name in sorted(local_names(state.charter, names))}
        withheld = withheld_names(state.charter, names)
        return Share({name: name for name in names if name not in withheld}, local)
    if site not in state.site_plans:
        raise StudyError(
            f"Site {site!r} has not said which tensors its network has.",
            hint="it has to publish its plan first: fedfs site run",
        )
    shapes = state.site_plans[site].tensors
    share = Share(alignment.shared_names(site, shapes, shared_by(state), alignment=spec.alignment))
    missing = sorted(set(share.own) - set(version))
    if missing:
        raise TensorError(
            f"names the tensor {missing[0]!r}, which global versions do not have", about="the plan"
        )
    return share
