"""Planning at the aggregator: the federated plan, and sites that are admitted to it later.

* Mode ``ffe``: the sites' fingerprints are merged and planned for once. A study that continues
  another one takes that one's plan, and its last version.
* Mode ``asym``: every site has planned for itself; it is decided who shares which tensors.
  Version 0 holds every shared tensor as the first site that has it, by name, would initialise it,
  so that equal tensors start from equal values everywhere.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedfs.aggregation import fingerprints
from fedfs.aggregation.alignment import Shapes
from fedfs.aggregation.fingerprint_checks import validate_fingerprint
from fedfs.aggregation.shared_tensors import agree, asym_spec, check_site_plan, join_in
from fedfs.errors import MalformedError, RejectedError, SetupError, StudyError
from fedfs.learner import SiteFingerprint
from fedfs.nnunet.plan.plans import PlanResult
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import ASYM, Admission, AsymSpec, Charter, PlanMessage, TrackCharter
from fedfs.protocol.state import StudyState
from fedfs.trust.recipients import AGE

BRING_KEYS = (
    "copy aggregator.age of the host that aggregated before beside this host's, as "
    "aggregator.0.age, and start again"
)
"""Advice where something is encrypted for a key of the aggregator that is on another host."""


class Planner(Protocol):
    """Plans and makes initial weights; :mod:`fedfs.nnunet` does, in a process of its own."""

    def plan(self, charter: Charter, fingerprint: Mapping[str, Any], n_cases: int) -> PlanResult:
        """Plan once for all sites from the federated fingerprint in nnU-Net's format."""

    def initial_weights(
        self, charter: TrackCharter, plan: PlanMessage, path: Path, *, pretrained: Path | None
    ) -> None:
        """Write version 0 to ``path``: the same tensors for the same charter and plan."""

    def network_weights(
        self,
        charter: TrackCharter,
        configuration: Mapping[str, Any],
        path: Path,
        *,
        pretrained: Path | None,
        alignment: str,
    ) -> None:
        """Write the initial weights of one site's network, by its own names, to ``path``.

        Args:
            charter: the study's; says trainer and seed.
            configuration: what the site published of its plan; not trusted.
            path: safetensors file to write.
            pretrained: tensors of any network, to start from where this one has them too.
            alignment: what it has too, see :mod:`fedfs.aggregation.alignment`.

        Raises:
            MalformedError: the configuration names what is not allowed, or no reasonable network.
        """


def make_plan(sites: Sequence[str], state: StudyState, planner: Planner) -> tuple[PlanMessage, str]:
    """Return the plan of the study, and a sentence for the log.

    Raises:
        StudyError: what a site published cannot be used, or sites share too little.
        SetupError: this host cannot decrypt it.
    """
    for site in sites:
        check_readable(site, state)
    spec = asym_spec(state.charter)
    if spec is None:
        return _plan_for_all(sites, state, planner)
    return _plan_of_each(sites, state, spec)


@contextlib.contextmanager
def using(what: str, site: str) -> Iterator[None]:
    """Turn the rejection of what a site published into an error about the study.

    Raises:
        StudyError: it was rejected.
    """
    try:
        yield
    except RejectedError as error:
        raise StudyError(
            f"The {what} of {site} cannot be used: {error.reason}.",
            hint="settle it with the site; the coordinator may remove it from the roster",
        ) from error


def check_readable(site: str, state: StudyState) -> None:
    """Check that this host can decrypt what a site published about its data.

    Raises:
        SetupError: it is encrypted for a key that is not on this host.
    """
    if not is_readable(site, state):
        key = participation.announcement(state, site)
        raise SetupError(f"This host cannot decrypt {key}.", hint=BRING_KEYS)


def is_readable(site: str, state: StudyState) -> bool:
    """Return whether this host can decrypt what a site published about its data."""
    if state.charter.encryption != AGE:
        return True
    asym = state.charter.mode == ASYM
    return bool(state.site_plans[site].tensors if asym else state.fingerprints[site].channels)


def admit(site: str, state: StudyState, version: Shapes) -> Admission:
    """Return the admission of a site that came after the plan.

    Args:
        site: has published its fingerprint, or its own plan.
        state: accepted messages.
        version: canonical names and shapes of the tensors of global versions.

    Raises:
        StudyError: what the site published cannot be used, or it shares too little.
        SetupError: this host cannot decrypt it.
    """
    check_readable(site, state)
    spec = asym_spec(state.charter)
    digest = state.digests[participation.announcement(state, site)]
    if spec is None:
        _usable_fingerprint(site, state)
        return Admission(key=layout.admission(site), site=site, announcement_sha256=digest)
    with using("plan", site):
        check_site_plan(state.site_plans[site])
        names, cover = join_in(state.site_plans[site].tensors, version, spec)
    return Admission(
        key=layout.admission(site),
        site=site,
        announcement_sha256=digest,
        tensors=names,
        coverage=round(cover.parameters, 6),
    )


def _plan_for_all(
    sites: Sequence[str], state: StudyState, planner: Planner
) -> tuple[PlanMessage, str]:
    charter = state.charter
    parts = {site: _usable_fingerprint(site, state) for site in sites}
    merged = fingerprints.merge_fingerprints(parts)
    pooled = fingerprints.to_nnunet(merged)
    text = f"planned for {len(sites)} sites with {merged.n_cases} cases"
    if charter.continues is None:
        planned = planner.plan(charter, pooled, merged.n_cases)
    else:
        if not state.given_plans:
            raise StudyError(
                f"The plans of study {charter.continues.study} cannot be decrypted on this host.",
                hint="is this the aggregator's host? its key is made by: fedfs init",
            )
        planned = PlanResult(
            plans=state.given_plans,
            dataset_json={**charter.dataset_json(), "numTraining": merged.n_cases},
            versions=charter.continues.versions,
        )
        text += f", as study {charter.continues.study} did"
    message = PlanMessage(
        key=layout.plan(),
        sites={site: state.digests[layout.fingerprint(site)] for site in sites},
        n_cases=merged.n_cases,
        fingerprint=pooled,
        plans=planned.plans,
        dataset_json=planned.dataset_json,
        versions=dict(planned.versions),
    )
    return message, text


def _usable_fingerprint(site: str, state: StudyState) -> SiteFingerprint:
    message = state.fingerprints[site]
    part = SiteFingerprint(message.n_cases, message.channels, message.geometry)
    with using("fingerprint", site):
        validate_fingerprint(part)
        if len(part.channels) != len(state.charter.dataset.channel_names):
            raise MalformedError(f"holds {len(part.channels)} channels", about="the fingerprint")
    return part


def _plan_of_each(
    sites: Sequence[str], state: StudyState, spec: AsymSpec
) -> tuple[PlanMessage, str]:
    for site in sites:
        with using("plan", site):
            check_site_plan(state.site_plans[site])
    tensors = {site: state.site_plans[site].tensors for site in sites}
    shared, coverage = agree(tensors, spec, state.charter)
    n_cases = sum(state.site_plans[site].n_cases for site in sites)
    message = PlanMessage(
        key=layout.plan(),
        sites={site: state.digests[layout.site_plan(site)] for site in sites},
        n_cases=n_cases,
        fingerprint={},
        plans={},
        dataset_json={**state.charter.dataset_json(), "numTraining": n_cases},
        versions={},
        shared=shared,
        coverage={site: round(cover.parameters, 6) for site, cover in coverage.items()},
    )
    lowest = min(coverage, key=lambda site: coverage[site].parameters)
    n_tensors = sum(len(group.tensors) for group in shared)
    text = (
        f"{len(sites)} sites with {n_cases} cases share {n_tensors} tensors; "
        f"least of all {lowest}, {coverage[lowest].parameters:.1%} of its parameters"
    )
    return message, text
