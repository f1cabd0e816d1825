"""What counts in a version: which updates, with which weight, and what its record says. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fedfs.aggregate import weighting
from fedfs.errors import MalformedError
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, Excluded, UpdateManifest, UsedUpdate
from fedfs.protocol.state import StudyState


def check_claims(update: UpdateManifest, state: StudyState) -> None:
    """Check what an update says of itself against what its site published before."""
    known = state.n_cases(update.site)
    if known is None or not 0 < update.n_training_cases <= known:
        raise MalformedError(
            f"claims {update.n_training_cases} training cases; its site has announced {known}"
        )
    if update.n_iterations <= 0:
        raise MalformedError("completed no iteration")


def weigh(updates: list[UpdateManifest], charter: Charter) -> dict[str, float]:
    """Return site -> weight under the charter's policy; weights sum to 1."""
    budget = charter.schedule.local_epochs * charter.schedule.iterations_per_epoch
    contributions = [
        weighting.Contribution(
            site=update.site,
            n_cases=update.n_training_cases,
            n_iterations=update.n_iterations,
            planned_iterations=budget,
        )
        for update in updates
    ]
    weights = weighting.weigh(contributions, charter.weighting.name)
    return {update.site: weight for update, weight in zip(updates, weights, strict=True)}


def used(
    updates: list[UpdateManifest], weights: Mapping[str, float], state: StudyState
) -> tuple[UsedUpdate, ...]:
    """Return what the round record says of the updates that went in."""
    return tuple(
        UsedUpdate(
            site=update.site,
            base_version=update.base_version,
            manifest_sha256=state.digests[update.key],
            payload_sha256=update.payload.sha256,
            weight=weights[update.site],
            n_training_cases=update.n_training_cases,
            n_iterations=update.n_iterations,
            size=update.payload.size,
        )
        for update in updates
    )


def excluded(base: int, state: StudyState) -> tuple[Excluded, ...]:
    """Who and what did not go into the version after ``base``, with the reason."""
    out = []
    for key_text, reason in sorted({**state.rejected, **state.unusable}.items()):
        key = layout.parse(key_text)
        if key is not None and key.kind == "update" and key.version == base:
            out.append(Excluded(site=key.site or "", key=key_text, reason=reason))
    return tuple(out)
