"""From verified updates to the next version: pure but for the files that are read and written.

One tensor is in memory at a time, and of the updates only slices, however many sites there are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfs.aggregate import encodings, strategies, weighting
from fedfs.checkpoint import TensorFile, stream_safetensors
from fedfs.errors import MalformedError
from fedfs.learner import Array
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, Excluded, UpdateManifest, UsedUpdate
from fedfs.protocol.state import StudyState

SLICE = 32_768
"""Values that are worked on at a time: they stay in the processor's cache. Part of the protocol, as
norms and distances are summed slice by slice."""


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


def payload_layout(base_file: TensorFile, charter: Charter) -> dict[str, encodings.Entry]:
    """Return the tensors that the charter's encoding makes of an update of the base's tensors."""
    encoding = encodings.by_name(charter.encoding.name, charter.encoding.options)
    return encodings.payload_layout(encoding, {n: base_file.shape(n) for n in base_file.names})


def check_values(file: TensorFile, base_file: TensorFile, charter: Charter) -> None:
    """Decode an update's payload once.

    Raises:
        TensorError: a value is not finite or out of range.
    """
    encoding = encodings.by_name(charter.encoding.name, charter.encoding.options)
    for name in base_file.names:
        encoding.decode(name, file, base_file.read(name))


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


@dataclass(frozen=True)
class Combination:
    """What the next version is made from.

    Attributes:
        base: tensors of the version before.
        state: memory of the strategy after that version; None at the first, or if it has none.
        updates: site -> payload of its update.
        weights: site -> weight.
        version: the version to be made.
    """

    base: TensorFile
    state: TensorFile | None
    updates: Mapping[str, Path]
    weights: Mapping[str, float]
    version: int


def combine(parts: Combination, charter: Charter, *, model: Path, state: Path) -> bool:
    """Write the next version to ``model`` and the strategy's memory, if it has one, to ``state``.

    Returns:
        Whether there is a memory.

    Raises:
        StudyError: the strategy needs more updates, or its steps diverge.
        TensorError: an update or the state is damaged.
    """
    strategy = strategies.by_name(charter.strategy.name, charter.strategy.options)
    encoding = encodings.by_name(charter.encoding.name, charter.encoding.options)
    shapes = {name: parts.base.shape(name) for name in parts.base.names}
    slots = {f"{slot}/{name}": (slot, name) for slot in strategy.slots for name in shapes}
    if parts.state is not None:
        parts.state.check_against({key: shapes[name] for key, (_, name) in slots.items()})
    with contextlib.ExitStack() as stack:
        files = {
            site: stack.enter_context(TensorFile(path)) for site, path in parts.updates.items()
        }
        reader = _Reader(parts, files, encoding, strategy.slots)
        this_round = strategy.begin(parts.weights, version=parts.version)
        while this_round.scanning:
            for name in shapes:
                for cut in reader.slices(name):
                    this_round.scan(cut.sites, cut.deltas)
            this_round.end_scan()

        def combined(name: str, slot: str | None = None) -> Array:
            out = np.empty(shapes[name], dtype=np.float32)
            flat = out.reshape(-1)
            for cut in reader.slices(name):
                done = this_round.combine(name, cut.base, cut.sites, cut.deltas, cut.state)
                flat[cut.place] = done.value if slot is None else done.state[slot]
            return out

        stream_safetensors(model, shapes, combined)
        if slots:  # made a second time, so that one tensor is in memory at a time
            stream_safetensors(
                state,
                {key: shapes[name] for key, (_, name) in slots.items()},
                lambda key: combined(slots[key][1], slots[key][0]),
            )
    return bool(slots)


@dataclass(frozen=True)
class _Cut:
    """A slice of one tensor: where it belongs, and what is known of it; deltas are read once."""

    place: slice
    base: Array
    state: Mapping[str, Array]
    sites: list[str]
    deltas: Iterator[strategies.Delta]


@dataclass(frozen=True)
class _Reader:
    """Reads tensors in slices that stay in the processor's cache, or whole where it has to be."""

    parts: Combination
    files: Mapping[str, TensorFile]
    encoding: encodings.Encoding
    slots: tuple[str, ...]

    def slices(self, name: str) -> Iterator[_Cut]:
        """Yield a tensor, flattened, in slices of :data:`SLICE` values."""
        shape, sites = self.parts.base.shape(name), sorted(self.files)
        n = math.prod(shape)
        step = SLICE if self._can_be_cut(name, shape) else max(n, 1)
        for start in range(0, n, step):
            stop = min(start + step, n)
            base = self.parts.base.read_slice(name, start, stop)
            state = {}
            if self.parts.state is not None:
                state = {
                    slot: self.parts.state.read_slice(f"{slot}/{name}", start, stop)
                    for slot in self.slots
                }
            deltas = (self._delta(site, name, base, start) for site in sites)
            yield _Cut(slice(start, stop), base, state, sites, deltas)

    def _can_be_cut(self, name: str, shape: tuple[int, ...]) -> bool:
        dtypes = {dtype for dtype, _ in self.encoding.expected(name, shape).values()}
        return self.encoding.elementwise and "BF16" not in dtypes

    def _delta(self, site: str, name: str, base: Array, start: int) -> strategies.Delta:
        file, shape = self.files[site], self.parts.base.shape(name)
        if not self._can_be_cut(name, shape):
            return self.encoding.decode(name, file, base.reshape(shape)).reshape(-1)
        payload = {
            part: file.read_slice(part, start, start + base.size) if wanted else file.read(part)
            for part, (_, wanted) in self.encoding.expected(name, base.shape).items()
        }
        return self.encoding.decode(name, payload, base)


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
