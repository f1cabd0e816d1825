"""Checks that a signed message agrees with its key and with what has been accepted before.

Rules:
 * Numbers inside a message are those of the key that it was signed for.
 * An update names a version that exists, and the weights that version has.
 * A model's manifest agrees with the round record of its version; versions start at 0 without a
   gap.
"""

from fedfs.errors import MisplacedError
from fedfs.protocol import layout, messages
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import Message
from fedfs.protocol.state import StudyState

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
    if key.kind == "aggregator-status" and inside["site"] != "":
        raise MisplacedError(f"is the aggregator's, but says site {inside['site']!r}")
    if isinstance(message, messages.Admission) and key.text != layout.admission(message.site):
        raise MisplacedError(f"admits {message.site!r}, but its key says another site")
    if isinstance(message, messages.ModelManifest):
        _check_model(state, message)
    given = state.given_plans
    if isinstance(message, messages.PlanMessage) and given and message.plans != given:
        raise MisplacedError("is not the plan of the study that this one continues")
    if isinstance(message, messages.UpdateManifest):
        _check_update(state, message)
    if isinstance(message, messages.SiteModel):
        _check_site_model(state, message)


def _check_model(state: StudyState, model: messages.ModelManifest) -> None:
    record = state.rounds.get(model.version)
    if record is None:
        raise MisplacedError(f"is version {model.version}, which has no round record")
    if any(getattr(record, of) != getattr(model, here) for of, here in _FROM_RECORD.items()):
        raise MisplacedError(f"disagrees with the round record of version {model.version}")
    if model.version > 0 and model.version - 1 not in state.models:
        raise MisplacedError(f"is version {model.version}, but there is none before it")
    continues = state.charter.continues
    if model.version == 0 and continues and model.weights_sha256 != continues.weights_sha256:
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


def _check_site_model(state: StudyState, model: messages.SiteModel) -> None:
    if not state.charter.shares_models:
        raise MisplacedError("is a site's model, for which the charter does not ask")
    if model.payload.key != layout.site_model_payload(model.site, model.payload.sha256):
        raise MisplacedError("names a payload outside its own place")
