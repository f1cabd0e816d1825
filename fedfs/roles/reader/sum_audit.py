"""Audit of secure sums: is a version made of the set that was asked for, within the rules?"""

import math
from collections.abc import Iterator

from fedfs.exchange import secure_scores
from fedfs.exchange.secure_sum import coefficients_of, tensors_in
from fedfs.protocol import layout, score_rules, sum_rules
from fedfs.protocol.messages import RoundRecord, SumRequest, Totals
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding


def is_void(state: StudyState, record: RoundRecord) -> bool:
    """Return whether a version is made of nothing, as its sum was given up or could not be made."""
    if record.secure is None:
        return False
    answer = state.mask_sums.get(record.version)
    given_up = sum_rules.was_given_up(state, record.version)
    return given_up or (answer is not None and answer.payload is None)


def verify_request(state: StudyState, record: RoundRecord) -> Iterator[Finding]:
    """Yield what is wrong with the sum that a version is made of.

    Args:
        state: accepted messages.
        record: of a version that is made of updates, whose manifests are there.
    """
    key, version, secure = layout.round_record(record.version), record.version, record.secure
    request, answer = state.sum_requests.get(version), state.mask_sums.get(version)
    if secure is None or request is None or answer is None:
        yield Finding(key, PROBLEM, "is made of a sum that is not there")
        return
    found = state.digests[request.key], state.digests[answer.key]
    if found != (secure.request_sha256, secure.sum_sha256):
        yield Finding(key, PROBLEM, "names another sum than there is")
        return
    before = {
        update: sha256
        for update, sha256 in sum_rules.answered_before(state).items()
        if sha256 != answer.request_sha256
    }
    named = {sum_rules.update_key(one): one for one in request.updates}
    missing = [text for text in named if text not in state.digests]
    fault = "" if missing else sum_rules.fault_of(state, request, before)
    if fault:
        yield Finding(request.key, PROBLEM, f"should not have been answered: {fault}")
    _, counts = tensors_in(state, request, answer)
    used = {one.site: (one.manifest_sha256, one.weight) for one in record.updates}
    if {one.site: one.manifest_sha256 for one in request.updates if one.site in counts} != {
        site: sha256 for site, (sha256, _) in used.items()
    }:
        yield Finding(key, PROBLEM, "does not use the updates of its sum")
        return
    if not missing:
        manifests = [state.updates[one.site, one.base_version] for one in request.updates]
        expected = coefficients_of(manifests, state.charter, version - 1)
        if {one.site: one.coefficient for one in request.updates} != expected:
            yield Finding(request.key, PROBLEM, "has other coefficients than the charter gives")
    total = math.fsum(counts.values())
    for site, (_, weight) in used.items():
        if not math.isclose(counts[site] / total, weight, rel_tol=1e-12):
            yield Finding(key, PROBLEM, f"gives {site} a weight that is not that of its sum")
    left = f"; {', '.join(answer.left_out)} left out" if answer.left_out else ""
    yield Finding(f"sum {version}", OK, f"of {len(counts)} updates that nobody saw{left}")


def verify_totals(state: StudyState) -> Iterator[Finding]:
    """Yield what is wrong with totals of scores, and which could be made again.

    Args:
        state: accepted messages; of a reader who can decrypt scores for the aggregator, or not.
    """
    if not state.charter.secure_scores:
        return
    published: dict[int, tuple[str, Totals]] = {
        version: (record.key, record.scores) for version, record in state.rounds.items()
    }
    end, n_hidden, n_same = state.finished, 0, 0
    if end is not None:
        published[end.version + 1] = (end.key, end.totals)
        answer = state.mask_sums.get(end.version + 1)
        if end.sum_sha256 and (answer is None or state.digests[answer.key] != end.sum_sha256):
            yield Finding(end.key, PROBLEM, "names another sum than there is")
    for version, (key, found) in sorted(published.items()):
        request = state.sum_requests.get(version)
        if request is None or version not in state.mask_sums:
            if found:
                yield Finding(key, PROBLEM, "has totals of scores, and no sum is there for them")
            continue
        yield from _score_rules(state, request)
        if sum_rules.was_given_up(state, version) or not request.scores:
            continue
        if not secure_scores.can_read(state, version):
            n_hidden += 1
        elif secure_scores.totals(state, version) != dict(found):
            yield Finding(key, PROBLEM, "has other totals than the scores of the sites give")
        else:
            n_same += 1
    if n_hidden:
        text = f"{n_hidden} cannot be made again here: this host cannot decrypt the scores"
        yield Finding("totals", NOTE, text)
    if n_same:
        yield Finding("totals", OK, f"of scores that nobody saw: {n_same} made again, the same")


def _score_rules(state: StudyState, request: SumRequest) -> Iterator[Finding]:
    """Yield what the helper should not have answered."""
    before = score_rules.answered_scores(state, before=request.version)
    sets = score_rules.sets_in(request, state.mask_sums[request.version])
    for variant, why in score_rules.fault_of_scores(state, request, sets, before).items():
        text = f"should not have been answered for {variant}: {why}"
        yield Finding(request.key, PROBLEM, text)
