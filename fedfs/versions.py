"""From verified updates to the next version: pure but for the files that are read and written.

One tensor is in memory at a time, however many sites there are.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from fedfs.aggregate import encodings, strategies, weighting
from fedfs.checkpoint import TensorFile, stream_safetensors
from fedfs.errors import MalformedError
from fedfs.learner import Array
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, Excluded, UpdateManifest, UsedUpdate
from fedfs.protocol.state import StudyState


def check_claims(update: UpdateManifest, state: StudyState) -> None:
    """Check what an update says of itself against what its site published before."""
    fingerprint = state.fingerprints.get(update.site)
    if fingerprint is None or not 0 < update.n_training_cases <= fingerprint.n_cases:
        known = fingerprint.n_cases if fingerprint else "none"
        raise MalformedError(
            f"claims {update.n_training_cases} training cases; its site's fingerprint has {known}"
        )
    if update.n_iterations <= 0:
        raise MalformedError("completed no iteration")


def weigh(updates: list[UpdateManifest], charter: Charter) -> tuple[float, ...]:
    """Return the updates' weights under the charter's policy; they sum to 1."""
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
    return weighting.weigh(contributions, charter.weighting.name)


def combine(
    base_file: TensorFile,
    paths: list[Path],
    weights: tuple[float, ...],
    charter: Charter,
    out: Path,
) -> None:
    """Write the new version to ``out``, one tensor at a time."""
    strategy = strategies.by_name(charter.strategy.name, charter.strategy.options)
    encoding = encodings.by_name(charter.encoding.name)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(TensorFile(path)) for path in paths]

        def tensor(name: str) -> Array:
            base = base_file.read(name)
            deltas = [encoding.decode(file.read(name), base) for file in files]
            return strategy.combine(name, base, deltas, weights)

        shapes = {name: base_file.shape(name) for name in base_file.names}
        stream_safetensors(out, shapes, tensor)


def used(
    updates: list[UpdateManifest], weights: tuple[float, ...], state: StudyState
) -> tuple[UsedUpdate, ...]:
    """Return what the round record says of the updates that went in."""
    return tuple(
        UsedUpdate(
            site=update.site,
            base_version=update.base_version,
            manifest_sha256=state.digests[update.key],
            payload_sha256=update.payload.sha256,
            weight=weight,
            n_training_cases=update.n_training_cases,
            n_iterations=update.n_iterations,
            size=update.payload.size,
        )
        for update, weight in zip(updates, weights, strict=True)
    )


def excluded(base: int, state: StudyState) -> tuple[Excluded, ...]:
    """Who and what did not go into the version after ``base``, with the reason."""
    out = []
    for key_text, reason in sorted({**state.rejected, **state.unusable}.items()):
        key = layout.parse(key_text)
        if key is not None and key.kind == "update" and key.version == base:
            out.append(Excluded(site=key.site or "", key=key_text, reason=reason))
    return tuple(out)
