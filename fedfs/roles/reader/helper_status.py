"""The helper of secure sums, at a glance: pure, from accepted messages."""

from collections.abc import Iterator

from fedfs.protocol import sum_rules
from fedfs.protocol.messages import Charter, Message, SecureSums
from fedfs.protocol.state import StudyState
from fedfs.trust.signing import key_fingerprint

HELPER = "helper"
HELPER_APPROVAL = "the coordinator to approve a helper"


def awaited(state: StudyState) -> tuple[tuple[str, ...], str] | None:
    """Return who is waited for because of secure sums, and since when; None for nobody."""
    if state.charter.secure_sums is None or state.newest < 0:
        return None
    if sum_rules.lacks_helper(state) is not None:
        return (HELPER_APPROVAL,), state.models[state.newest].created_at
    version = state.newest + 1
    request = state.sum_requests.get(version)
    if request is None or version in state.mask_sums or sum_rules.is_given_up(state, version):
        return None
    return (HELPER,), request.created_at


def asks(state: StudyState) -> str:
    """Return the fingerprint of the key of a helper who asks to be approved; "" if none does."""
    rules, asked = state.charter.secure_sums, state.helper_join
    if rules is None or asked is None or asked.public_key == rules.helper_key:
        return ""
    return key_fingerprint(asked.public_key)


def describe_rules(charter: Charter) -> Iterator[tuple[str, str]]:
    """Yield name and text of what a charter says about secure sums."""
    rules = charter.secure_sums
    if rules is None:
        return
    bound = f", each of them at most {rules.clip_norm:g} long" if rules.clip_norm else ""
    text = f"of {rules.min_sites} or more sites, none more than {100 * rules.max_share:g}% of a sum"
    yield "secure sums", f"{text}; nobody sees a single update{bound}"
    if rules.scores:
        yield "secure scores", "nobody sees scores of a single site, but totals over sites"
    who = key_fingerprint(rules.helper_key) if rules.helper_key else "nobody yet"
    yield "helper", who


def helper_changes(before: SecureSums | None, after: SecureSums | None) -> Iterator[str]:
    """Yield what an amendment of the charter changed about the helper, as text."""
    if before is None or after is None:
        return
    if after.helper_key != before.helper_key:
        who = "another helper has" if after.helper_number > before.helper_number > 0 else ""
        who = who or "the helper has"
        yield f"{who} the key {key_fingerprint(after.helper_key)}"
    for track, version in after.given_up.items():
        if before.given_up.get(track) != version:
            yield f"the sum for version {version} of {track} is given up"


def sum_events(state: StudyState) -> Iterator[tuple[Message, str, str]]:
    """Yield messages about secure sums, with who published each, and what that was."""
    asked = state.helper_join
    if asked is not None:
        text = f"asked to be the helper, with key {key_fingerprint(asked.public_key)}"
        yield asked, HELPER, text
    for request in state.sum_requests.values():
        sites = ", ".join(f"{one.site} (from {one.base_version})" for one in request.updates)
        text = f"asked for the sum for version {request.version}: {sites}"
        if not request.updates:
            text = f"asked for totals of the scores of version {request.version - 1}"
        yield request, "aggregator", text
    for answer in state.mask_sums.values():
        text = f"published the sum of masks for version {answer.version}"
        if not state.sum_requests[answer.version].updates:
            text = f"published the sums of the masks of scores of version {answer.version - 1}"
        elif answer.payload is None:
            text = f"made no sum for version {answer.version}, as too few updates were left"
        for site, reason in sorted(answer.left_out.items()):
            text += f"; left out {site}: {reason}"
        for site, reason in sorted(answer.scores_left_out.items()):
            text += f"; left the scores of {site} out: {reason}"
        for variant, reason in sorted(answer.scores_refused.items()):
            text += f"; made no total of scores ({variant}): {reason}"
        yield answer, HELPER, text
