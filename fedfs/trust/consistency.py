"""Checks that a signed message agrees with its key and with what has been accepted before.

Rules:
 * Numbers inside a message are those of the key that it was signed for.
 * An update names a version that exists, and the weights that version has.
 * A model's manifest agrees with the round record of its version; versions start at 0 without a
   gap.
 * With secure sums an update is masked, and a version is made of the sum that a request asked for.
 * With secure scores an evaluation is masked, or says nothing; else none is masked.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedfs.errors import MisplacedError
from fedfs.protocol import layout, messages
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import Charter, Message, SecureSums
from fedfs.protocol.score_rules import is_totalled, n_values
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import helper_number
from fedfs.trust.masks import words_in

_HELPER_FIELDS = (
    "helper_number", "helper_key", "helper_encryption_key", "helper_from_versions", "given_up",
)  # fmt: skip
_ONLY_ONE = ("fingerprint", "site-plan", "plan", "cross-validation", "choice")

# A model's manifest repeats what its round record says.
_FROM_RECORD = {
    "model": "payload",
    "weights_sha256": "weights_sha256",
    "encoding": "encoding",
    "encoding_options": "encoding_options",
    "keyframe": "keyframe",
    "ema": "ema",
}


def check_amendment(charter: Charter, before: Charter) -> None:
    """Check that an amendment leaves alone what sites have relied on as they joined.

    Raises:
        MisplacedError: saying what it changes.
    """
    if charter.tracks != before.tracks:
        raise MisplacedError("changes the tracks of the study")
    if charter.given != before.given:
        raise MisplacedError("changes the models that the study evaluates")
    rules = [_without_helper(one.secure_sums) for one in (charter, before)]
    if rules[0] != rules[1]:
        raise MisplacedError("changes the rules of secure sums")


def _without_helper(rules: SecureSums | None) -> SecureSums | None:
    if rules is None:
        return None
    usual = SecureSums()
    return replace(rules, **{name: getattr(usual, name) for name in _HELPER_FIELDS})


def check_consistency(state: StudyState, key: Key, message: Message) -> None:
    """Check that a message agrees with its key and with the accepted messages.

    Raises:
        MisplacedError: saying with what it does not.
    """
    inside = {
        "site": getattr(message, "site", None),
        "version": getattr(message, "base_version", getattr(message, "version", None)),
        "number": getattr(message, "number", None),
        "variant": getattr(message, "variant", None),
    }
    for name, value in inside.items():
        expected = getattr(key, name)
        if expected is not None and value not in (None, expected):
            raise MisplacedError(f"says {name} {value!r}, but its key says {expected!r}")
    if key.kind in _ONLY_ONE and key.number != 1:
        raise MisplacedError(f"has the number {key.number}, but there is only one {key.kind}")
    if key.is_status and inside["site"] != key.writer:
        raise MisplacedError(f"says site {inside['site']!r}, but its key says {key.writer!r}")
    if isinstance(message, messages.Admission) and key.text != layout.admission(message.site):
        raise MisplacedError(f"admits {message.site!r}, but its key says another site")
    given = state.given_plans
    if isinstance(message, messages.PlanMessage) and given and message.plans != given:
        raise MisplacedError("is not the plan of the study that this one continues")
    check = _OF_KIND.get(type(message))
    if check is not None:
        check(state, message)


def _check_model(state: StudyState, model: messages.ModelManifest) -> None:
    record = state.rounds.get(model.version)
    if record is None:
        raise MisplacedError(f"is version {model.version}, which has no round record")
    if any(getattr(record, of) != getattr(model, here) for of, here in _FROM_RECORD.items()):
        raise MisplacedError(f"disagrees with the round record of version {model.version}")
    if model.version > 0 and model.version - 1 not in state.models:
        raise MisplacedError(f"is version {model.version}, but there is none before it")
    continues, part = state.charter.continues, state.charter.train_only
    begins = part.begins_sha256 if part else continues.weights_sha256 if continues else ""
    if model.version == 0 and begins and model.weights_sha256 != begins:
        raise MisplacedError("is not the version that the study continues from")


def _check_update(state: StudyState, update: messages.UpdateManifest) -> None:
    base = state.models.get(update.base_version)
    if base is None:
        raise MisplacedError(f"was trained from version {update.base_version}, which is not there")
    if update.base_weights_sha256 != base.weights_sha256:
        raise MisplacedError(f"was trained from other weights than version {base.version} has")
    if update.encoding != state.charter.encoding.name:
        raise MisplacedError(f"has the encoding {update.encoding!r}, not the charter's")
    own = layout.update_payload(update.site, update.base_version, update.payload.sha256)
    if update.payload.key != own:
        raise MisplacedError("names a payload outside its own place")
    rules = state.charter.secure_sums
    if (rules is not None) != bool(update.seed and update.seed_for):
        hidden = "hides nothing" if rules is not None else "is masked"
        raise MisplacedError(f"{hidden}, which is not what the charter says")
    if rules is not None and not helper_number(state, update.seed_for):
        raise MisplacedError("is masked with a seed for somebody who is not the helper")


def _check_evaluation(state: StudyState, message: messages.EvaluationMessage) -> None:
    charter = state.charter
    if charter.secure_scores and message != replace(
        message.without_scores(suppressed=message.suppressed),
        masked=message.masked, seed=message.seed, seed_for=message.seed_for, extra=message.extra,
    ):  # fmt: skip
        raise MisplacedError("shows scores, of which the charter wants totals only")
    if not message.is_masked:
        return
    if not charter.secure_scores or not is_totalled(charter, message):
        raise MisplacedError("is masked, which is not what the charter says")
    if not helper_number(state, message.seed_for):
        raise MisplacedError("is masked with a seed for somebody who is not the helper")
    if message.masked and words_in(message.masked) != n_values(charter):
        raise MisplacedError(f"does not hold {n_values(charter)} masked numbers")


def _check_record(state: StudyState, record: messages.RoundRecord) -> None:
    if state.charter.secure_sums is not None and record.updates:
        if record.secure is None or not record.secure.sum_sha256:
            raise MisplacedError("is made of updates without a secure sum")
    elif record.secure is not None and state.charter.secure_sums is None:
        raise MisplacedError("is made of a secure sum, for which the charter does not ask")


def _check_sum_request(state: StudyState, request: messages.SumRequest) -> None:
    if state.charter.secure_sums is None:
        raise MisplacedError("asks for a secure sum, for which the charter does not ask")
    if request.version - 1 not in state.models:
        raise MisplacedError(f"is for version {request.version}, but there is none before it")
    if any(update.base_version >= request.version for update in request.updates):
        raise MisplacedError("names an update from a version that does not come before")


def _check_mask_sum(state: StudyState, answer: messages.MaskSum) -> None:
    request = state.sum_requests.get(answer.version)
    if request is None or state.digests[request.key] != answer.request_sha256:
        raise MisplacedError("answers a request that is not there")
    if not set(answer.left_out) <= {update.site for update in request.updates}:
        raise MisplacedError("leaves out a site that was not asked for")
    if not {*answer.scores, *answer.scores_refused} <= set(request.scores):
        raise MisplacedError("is about scores that were not asked for")
    own = layout.mask_sum(answer.version).rpartition("/")[0]
    if answer.payload is not None and not answer.payload.key.startswith(f"{own}/sum-"):
        raise MisplacedError("names a payload outside its own place")


def _check_site_model(state: StudyState, model: messages.SiteModel) -> None:
    if not state.charter.shares_models:
        raise MisplacedError("is a site's model, for which the charter does not ask")
    if model.payload.key != layout.site_model_payload(model.site, model.payload.sha256):
        raise MisplacedError("names a payload outside its own place")


_OF_KIND: dict[type[Message], Callable[[StudyState, Any], None]] = {
    messages.ModelManifest: _check_model,
    messages.UpdateManifest: _check_update,
    messages.EvaluationMessage: _check_evaluation,
    messages.SiteModel: _check_site_model,
    messages.RoundRecord: _check_record,
    messages.SumRequest: _check_sum_request,
    messages.MaskSum: _check_mask_sum,
}
