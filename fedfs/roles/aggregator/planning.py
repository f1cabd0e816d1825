"""What the aggregator decides before the first round: the plan and version 0.

* Mode ``ffe``: the sites' fingerprints are merged and planned for once. A study that continues
  another one takes that one's plan, and its last version.
* Mode ``asym``: every site has planned for itself; it is decided who shares which tensors.
  Version 0 holds every shared tensor as the first site that has it, by name, would initialise it,
  so that equal tensors start from equal values everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from fedfs.aggregation import alignment, fingerprints
from fedfs.aggregation.alignment import Shapes
from fedfs.aggregation.shared_tensors import agree, asym_spec, check_site_plan, join_in, shared_by
from fedfs.errors import MalformedError, RejectedError, StudyError
from fedfs.learner import SiteFingerprint
from fedfs.nnunet.plan.planner import dataset_json
from fedfs.nnunet.plan.plans import PlanResult
from fedfs.protocol import codec, layout, participation
from fedfs.protocol.messages import AsymSpec, Charter, Continued, PlanMessage
from fedfs.protocol.state import StudyState, newest_charter
from fedfs.tensors.canonical import TensorFile, stream_safetensors, weights_sha256

_SETTLE = "settle it with the site; the coordinator may remove it from the roster"


class Planner(Protocol):
    """Plans and makes initial weights; :mod:`fedfs.nnunet` does, in a process of its own."""

    def plan(self, charter: Charter, fingerprint: Mapping[str, Any], n_cases: int) -> PlanResult:
        """Plan once for all sites from the federated fingerprint in nnU-Net's format."""

    def initial_weights(
        self, charter: Charter, plan: PlanMessage, path: Path, *, pretrained: Path | None
    ) -> None:
        """Write version 0 to ``path``: the same tensors for the same charter and plan."""

    def network_weights(
        self,
        charter: Charter,
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


def make_plan(
    sites: Sequence[str], state: StudyState, planner: Planner
) -> tuple[dict[str, Any], str]:
    """Return the fields of the plan message, and what was done in words.

    Raises:
        StudyError: what a site published cannot be used, or sites share too little.
    """
    charter = newest_charter(state)
    spec = asym_spec(charter)
    if spec is None:
        return _plan_for_all(sites, state, planner)
    return _plan_of_each(sites, state, spec)


def admit(site: str, state: StudyState, version: Shapes) -> dict[str, Any]:
    """Return the fields of the message that admits a site which came after the plan.

    Args:
        site: has published its fingerprint, or its own plan.
        state: accepted messages.
        version: canonical names and shapes of the tensors of global versions.

    Raises:
        StudyError: what the site published cannot be used, or it shares too little.
    """
    charter = newest_charter(state)
    spec = asym_spec(charter)
    digest = state.digests[participation.announcement(state, site)]
    if spec is None:
        _usable_fingerprint(site, state)
        return {"announcement_sha256": digest}
    try:
        check_site_plan(state.site_plans[site])
        names, cover = join_in(state.site_plans[site].tensors, version, spec)
    except RejectedError as error:
        raise StudyError(f"the plan of {site} cannot be used: it {error}", hint=_SETTLE) from error
    return {
        "announcement_sha256": digest,
        "tensors": names,
        "coverage": round(cover.parameters, 6),
    }


def write_initial_weights(
    state: StudyState, planner: Planner, path: Path, *, pretrained: Path | None, scratch: Path
) -> None:
    """Write version 0 to ``path``.

    Args:
        state: has a plan.
        planner: knows nnU-Net.
        path: safetensors file to write.
        pretrained: canonical tensors to start from.
        scratch: folder for intermediate files.

    Raises:
        StudyError: there is no plan; or a site's network is not the one it announced; or the
            weights are not those that the study continues from.
    """
    charter, plan = newest_charter(state), state.plan
    if plan is None:
        raise StudyError("there is no plan to initialise a network from")
    spec = asym_spec(charter)
    if charter.continues is not None:
        _copy(pretrained, charter.continues, path)
        return
    if spec is None:
        planner.initial_weights(charter, plan, path, pretrained=pretrained)
        return
    in_plan = [name for group in plan.shared for name in group.tensors]
    first = {name: shared_by(state)[name][0] for name in in_plan}
    made: dict[bytes, Path] = {}
    with ExitStack() as stack:
        files: dict[str, TensorFile] = {}
        own_names: dict[str, dict[str, str]] = {}
        for site in sorted(set(first.values())):
            network = codec.dumps(state.site_plans[site].configuration)
            if network not in made:
                made[network] = scratch / f"network-{len(made)}.safetensors"
                _write_network(
                    site, state, planner, made[network],
                    pretrained=pretrained, alignment=spec.alignment,
                )  # fmt: skip
            files[site] = stack.enter_context(TensorFile(made[network]))
            own_names[site] = alignment.own_names(state.site_plans[site].tensors, spec.alignment)
            try:
                files[site].check_against(state.site_plans[site].tensors)
            except RejectedError as error:
                raise StudyError(
                    f"the plan of {site} leads to another network than it announced: {error}",
                    hint="do the site and the aggregator have the same version of nnunetv2?",
                ) from error
        shapes = {name: files[s].shape(own_names[s][name]) for name, s in first.items()}
        stream_safetensors(
            path, shapes, lambda name: files[first[name]].read(own_names[first[name]][name])
        )


def _copy(weights: Path | None, continues: Continued, path: Path) -> None:
    """Copy the whole of a version: other than pretrained weights, segmentation layers too."""
    if weights is None:
        raise StudyError(f"the charter names no weights of study {continues.study}")
    with TensorFile(weights) as file:
        if weights_sha256(file) != continues.weights_sha256:
            raise StudyError(
                f"the weights on the store are not version {continues.version} of study "
                f"{continues.study}",
                hint="start anew: fedfs init on another store",
            )
    shutil.copyfile(weights, path)


def _plan_for_all(
    sites: Sequence[str], state: StudyState, planner: Planner
) -> tuple[dict[str, Any], str]:
    charter = newest_charter(state)
    parts = {site: _usable_fingerprint(site, state) for site in sites}
    merged = fingerprints.merge_fingerprints(parts)
    pooled = fingerprints.to_nnunet(merged)
    text = f"planned for {len(sites)} sites with {merged.n_cases} cases"
    if charter.continues is None:
        planned = planner.plan(charter, pooled, merged.n_cases)
    else:
        planned = _given(state, charter.continues, merged.n_cases)
        text += f", as study {charter.continues.study} did"
    fields = {
        "sites": {site: state.digests[layout.fingerprint(site)] for site in sites},
        "n_cases": merged.n_cases,
        "fingerprint": pooled,
        "plans": planned.plans,
        "dataset_json": planned.dataset_json,
        "versions": dict(planned.versions),
    }
    return fields, text


def _given(state: StudyState, continues: Continued, n_cases: int) -> PlanResult:
    if not state.given_plans:
        raise StudyError(
            f"the plans of study {continues.study} cannot be decrypted on this host",
            hint="is this the aggregator's host? its key is made by: fedfs init",
        )
    content = {**dataset_json(newest_charter(state)), "numTraining": n_cases}
    return PlanResult(plans=state.given_plans, dataset_json=content, versions=continues.versions)


def _usable_fingerprint(site: str, state: StudyState) -> SiteFingerprint:
    message = state.fingerprints[site]
    part = SiteFingerprint(message.n_cases, message.channels, message.geometry)
    try:
        fingerprints.validate_fingerprint(part)
        if len(part.channels) != len(newest_charter(state).dataset.channel_names):
            raise MalformedError(f"holds {len(part.channels)} channels")
    except RejectedError as error:
        raise StudyError(
            f"the fingerprint of {site} cannot be used: it {error}", hint=_SETTLE
        ) from error
    return part


def _plan_of_each(
    sites: Sequence[str], state: StudyState, spec: AsymSpec
) -> tuple[dict[str, Any], str]:
    for site in sites:
        try:
            check_site_plan(state.site_plans[site])
        except RejectedError as error:
            raise StudyError(
                f"the plan of {site} cannot be used: it {error}", hint=_SETTLE
            ) from error
    shared, coverage = agree({site: state.site_plans[site].tensors for site in sites}, spec)
    n_cases = sum(state.site_plans[site].n_cases for site in sites)
    fields = {
        "sites": {site: state.digests[layout.site_plan(site)] for site in sites},
        "n_cases": n_cases,
        "fingerprint": {},
        "plans": {},
        "dataset_json": {**dataset_json(newest_charter(state)), "numTraining": n_cases},
        "versions": {},
        "shared": shared,
        "coverage": {site: round(cover.parameters, 6) for site, cover in coverage.items()},
    }
    lowest = min(coverage, key=lambda site: coverage[site].parameters)
    n_tensors = sum(len(group.tensors) for group in shared)
    text = (
        f"{len(sites)} sites with {n_cases} cases share {n_tensors} tensors; "
        f"least of all {lowest}, {coverage[lowest].parameters:.1%} of its parameters"
    )
    return fields, text


def _write_network(
    site: str,
    state: StudyState,
    planner: Planner,
    path: Path,
    *,
    pretrained: Path | None,
    alignment: str,
) -> None:
    try:
        planner.network_weights(
            newest_charter(state),
            state.site_plans[site].configuration,
            path,
            pretrained=pretrained,
            alignment=alignment,
        )
    except RejectedError as error:
        raise StudyError(f"the plan of {site} cannot be used: {error}", hint=_SETTLE) from error
