"""Secure sums: the request for one, and the sum once its masks are gone.

By the aggregator, and by whoever checks a version: the same inputs give the same bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.aggregation.local_tensors import withheld_names
from fedfs.aggregation.secure_sums import coefficients, level_shapes, write_sum
from fedfs.aggregation.shared_tensors import grouped, shared_by
from fedfs.errors import StudyError, TensorError
from fedfs.exchange import versions
from fedfs.exchange.payloads import update_encoding
from fedfs.exchange.secure_scores import scores_to_ask_for
from fedfs.protocol import layout, sum_rules
from fedfs.protocol.messages import (
    Charter,
    MaskSum,
    Participation,
    PayloadRef,
    SecureRound,
    SummedUpdate,
    SumRequest,
    UpdateManifest,
)
from fedfs.protocol.score_rules import NOWHERE_ELSE, SetsElsewhere
from fedfs.protocol.state import StudyState
from fedfs.tensors.encodings import SummedLevels
from fedfs.tensors.encodings.base import VALUES, part_name
from fedfs.tensors.encodings.fixed import Fixed
from fedfs.tensors.safetensors_layout import Entry, Shape, file_bytes
from fedfs.tensors.safetensors_reader import TensorFile

_SLACK_BYTES = 2**16
"""A sum that is slightly too long is fetched all the same, so that its error can be named."""


@dataclass(frozen=True)
class Summed:
    """The weighted sum of the updates of a round.

    Attributes:
        path: file of it, as :class:`~fedfs.tensors.encodings.summed.SummedLevels` reads it.
        weights: site -> share of its update in the sum; they sum to 1.
        base_version: that the updates were trained from; the newest of several.
        sharing: tensor that was summed -> sites whose updates are in it.
    """

    path: Path
    weights: Mapping[str, float]
    base_version: int
    sharing: Mapping[str, Sequence[str]]

    def participation(self, state: StudyState) -> tuple[Participation, ...]:
        """Return who took part in each shared tensor; empty in the mode ``ffe``."""
        return grouped({name: self.sharing.get(name, ()) for name in shared_by(state)})


def summed_encoding(charter: Charter) -> SummedLevels:
    """Return how a sum of a study's updates is read.

    Raises:
        StudyError: updates in its encoding cannot be added.
    """
    encoding = update_encoding(charter)
    if not isinstance(encoding, Fixed):
        raise StudyError(
            f"Updates as {charter.encoding.name} cannot be summed under masks.",
            hint="ask the coordinator: secure sums need the encoding fixed or randk",
        )
    return SummedLevels(encoding)


def coefficients_of(
    updates: Sequence[UpdateManifest], charter: Charter, base: int
) -> dict[str, int]:
    """Return site -> coefficient of its update in the sum that the version after ``base`` is of."""
    weights = versions.weigh(updates, charter, base)
    return sum_rules.capped(coefficients(weights), sum_rules.rules_of(charter).max_share)


def make_request(
    state: StudyState,
    updates: Sequence[UpdateManifest],
    shapes: Mapping[str, Shape],
    version: int,
    *,
    elsewhere: SetsElsewhere = NOWHERE_ELSE,
) -> SumRequest:
    """Return the request for the sum of updates.

    Args:
        state: what the aggregator accepted.
        updates: one of a site.
        shapes: canonical name -> shape of the tensors of versions.
        version: to be made of the sum.
        elsewhere: sets of sites whose totals of scores are known on other tracks.

    Raises:
        StudyError: no tensor may be summed.
    """
    charter, rules = state.charter, sum_rules.rules_of(state.charter)
    counts = coefficients_of(updates, charter, version - 1)
    withheld, shared = withheld_names(charter, shapes), shared_by(state)
    sharing = shared or dict.fromkeys((n for n in shapes if n not in withheld), tuple(counts))
    tensors = sum_rules.summed(sharing, counts, rules)
    if not tensors:
        raise StudyError(
            f"No tensor is shared by {rules.min_sites} sites of which none counts more than "
            f"{rules.max_share:g} of all, so that no secure sum can be made.",
            hint="wait for more sites: fedfs status shows who is missing",
        )
    return SumRequest(
        key=layout.sum_request(version),
        version=version,
        updates=tuple(
            SummedUpdate(
                site=update.site,
                base_version=update.base_version,
                manifest_sha256=state.digests[update.key],
                coefficient=counts[update.site],
            )
            for update in sorted(updates, key=lambda update: update.site)
            if update.site in counts
        ),
        tensors=level_shapes(update_encoding(charter), {name: shapes[name] for name in tensors}),
        shared=grouped(tensors) if shared else (),
        scores=scores_to_ask_for(state, elsewhere),
    )


def unmask(
    state: StudyState,
    version: int,
    payloads: Mapping[str, Path],
    target: Path,
    *,
    fetch: Callable[[PayloadRef, int], Path],
) -> Summed:
    """Write the sum of the updates that a request names and the helper has answered.

    Args:
        state: accepted messages; request and answer are there.
        version: that is made of the sum.
        payloads: key of a manifest -> local file of its masked payload.
        target: file to write.
        fetch: returns the local file of a payload of at most so many bytes.

    Raises:
        TensorError: the sum of masks is damaged, or is not that of these updates.
        ObjectNotFoundError, SealedError, StoreError: it cannot be read.
    """
    request, answer = state.sum_requests[version], state.mask_sums[version]
    sharing, counts = tensors_in(state, request, answer)
    expected: dict[str, Entry] = {
        part_name(name, VALUES): ("U32", tuple(request.tensors[name])) for name in sharing
    }
    if answer.payload is None:
        raise TensorError("has no payload, as too few updates were left", key=answer.key)
    mask_sum = fetch(answer.payload, file_bytes(expected) + _SLACK_BYTES)
    with TensorFile(mask_sum) as file:
        file.check_layout(expected)
    used = [one for one in request.updates if one.site in counts]
    files = {one.site: payloads[sum_rules.update_key(one)] for one in used}
    clip_norm = sum_rules.rules_of(state.charter).clip_norm
    step = summed_encoding(state.charter).step
    longest = math.inf if clip_norm is None else clip_norm / step
    write_sum(target, files, counts, mask_sum, sharing, max_norm=longest)
    total = math.fsum(counts.values())
    return Summed(
        path=target,
        weights={site: count / total for site, count in counts.items()},
        base_version=max(one.base_version for one in used),
        sharing=sharing,
    )


def tensors_in(
    state: StudyState, request: SumRequest, answer: MaskSum
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Return tensor -> sites in the helper's sum, and site -> coefficient, of those left in."""
    counts = {
        one.site: one.coefficient for one in request.updates if one.site not in answer.left_out
    }
    return sum_rules.summed(request.sharing, counts, sum_rules.rules_of(state.charter)), counts


def record_of(state: StudyState, version: int) -> SecureRound | None:
    """Return what the record of a version says of its secure sum; None if none was asked for."""
    request, answer = state.sum_requests.get(version), state.mask_sums.get(version)
    if request is None:
        return None
    is_used = answer is not None and not sum_rules.is_given_up(state, version)
    return SecureRound(
        request_sha256=state.digests[request.key],
        sum_sha256=state.digests[answer.key] if answer is not None and is_used else "",
    )
