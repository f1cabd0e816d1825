"""Verify messages found on a store: accept or refuse each, without I/O and without a clock.

``TrustedView`` is fed the bytes found under each key and keeps the accepted messages. Its rules:

 * The study's id contains a hash of the coordinator's key: the first charter proves itself against
   the id. Each amendment is signed by the coordinator key of the one before, numbered without a
   gap, and names the hash of the one before.
 * A join request proves only that its sender holds the key it presents.
 * What lies under ``sites/<site>/`` is signed by a key of that site which counts for the version it
   is about, by the charters (:mod:`fedfs.trust.key_validity`); what lies under ``aggregator/`` by
   such a key of the aggregator, and under ``helper/`` by one of the helper. What is about no
   version is signed by any of these, and believed of a site that is paused but not of one that is
   removed. Plan, admissions and choice are signed by the newest key of the aggregator, or the
   charter names them by their hash.
 * What an accepted round record, admission or the plan names by its hash stays believed, whoever
   is removed.
 * Every message names the study, its track unless the whole study shares it, and the key it lies
   under, so that it cannot be moved.
 * Every message agrees with its key and with what has been accepted
   (:mod:`fedfs.trust.consistency`).
 * An object is written once: the first accepted message under a key stays.
 * What is refused is remembered with the reason, and tried again when the charter changes.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from fedfs.errors import MalformedError, MisplacedError, RejectedError, SignatureError, StandsUntil
from fedfs.protocol import layout, messages
from fedfs.protocol.layout import Key
from fedfs.protocol.messages import Charter, HelperJoin, JoinRequest, Message
from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import TrackPlace
from fedfs.protocol.values import HELPER_SITE
from fedfs.trust import key_validity
from fedfs.trust.consistency import check_amendment, check_consistency
from fedfs.trust.key_validity import Tenure
from fedfs.trust.signing import Envelope, study_id

AGGREGATOR_ONCE = ("plan", "admission", "choice")
"""Kinds of message that the aggregator decides by and that are about no version."""


class Decryption(Protocol):
    """Keys of a reader; see :class:`fedfs.trust.recipients.Vault`."""

    def learn(self, charter: Charter) -> None:
        """Take the keys of an accepted charter."""

    def unseal(self, data: bytes) -> bytes:
        """Decrypt, or raise :class:`~fedfs.errors.SealedError`."""


class TrustedView:
    """The accepted state of one study, from its first charter on.

    Args:
        first: the bytes of the first charter.
        study: the id that the reader knows the study by; None to take it from the first charter
            (trust on first use: the caller shows the id to a person).
        keys: what this reader can decrypt; None for nothing.
        track: the track whose messages are read, None for the first one; the charter reads as it
            does for that one.

    Raises:
        RejectedError: the first charter cannot be believed.
    """

    def __init__(
        self,
        first: bytes,
        *,
        study: str | None = None,
        keys: Decryption | None = None,
        track: TrackPlace | None = None,
    ) -> None:
        self._keys = keys
        try:
            envelope = Envelope(first)
            charter = _verify_first(envelope, study)
        except RejectedError as error:
            raise error.under(layout.charter(1)) from None
        self.study = charter.study
        self.track = track or TrackPlace.of(charter)
        self.state = StudyState({}, digests={charter.key: envelope.sha256})
        self._first = first
        self._keep(charter)

    def anew(self) -> "TrustedView":
        """Return a view of the same study that has accepted nothing but its first charter."""
        return type(self)(self._first, study=self.study, keys=self._keys, track=self.track)

    def wants(self, key: Key) -> bool:
        """Return whether the object under ``key`` is a message that has not been accepted yet."""
        return not key.is_payload and key.text not in self.state.digests

    def add(self, key: Key, data: bytes) -> Message:
        """Verify and accept the message under ``key``.

        Raises:
            RejectedError: with the key and the reason, which ``state.rejected`` keeps too.
        """
        try:
            message = self._verify(key, data)
        except RejectedError as error:
            self.state.rejected[key.text] = error.under(key.text).reason
            raise
        self.state.rejected.pop(key.text, None)
        self._keep(message)
        return message

    def _verify(self, key: Key, data: bytes) -> Message:
        cls = messages.message_class(key.kind)
        if cls is None:
            raise MisplacedError("is not a message")
        with _standing_until("change"):
            envelope = self._open(data)
        if key.kind == "charter":
            with _standing_until("charter"):
                message: Message = self._verify_charter(key, envelope)
        elif cls in (JoinRequest, HelperJoin):
            with _standing_until("change"):
                message = self._verify_join(key, envelope, cls)
        else:
            message = self._verify_signed(key, envelope, cls)
        check_consistency(self.state, key, message)
        self.state.digests[key.text] = envelope.sha256
        return message

    def _verify_charter(self, key: Key, envelope: Envelope) -> Charter:
        kind = messages.payload_type(Charter)
        number = key.number or 0
        before = self.state.charters.get(number - 1)
        if before is None:
            raise MisplacedError(f"amends charter {number - 1}, which is not there")
        payload = envelope.verify(before.coordinator_key, kind)
        charter = messages.decode(Charter, payload, key=key.text, study=self.study)
        check_amendment(charter, before)
        if charter.previous_sha256 != self.state.digests[before.key]:
            raise MisplacedError(f"does not amend the charter {number - 1} that is on the store")
        return charter

    def _verify_join(self, key: Key, envelope: Envelope, cls: type[Message]) -> Message:
        claimed = messages.decode(cls, envelope.payload, key=key.text, study=self.study)
        envelope.verify(getattr(claimed, "public_key"), messages.payload_type(cls))  # noqa: B009  both have one
        return claimed

    def _verify_signed(self, key: Key, envelope: Envelope, cls: type[Message]) -> Message:
        """Verify what a site or the aggregator signed, with the key that counts for it."""
        with _standing_until("charter"):
            tenures = self._tenures(key)[::-1]
            keys = [one.public_key for one in tenures]
            signed_by = self._signer(envelope, keys, cls)
        message = self._decode(cls, envelope, key)
        vouched = self.state.charter.vouched.get(self.track.on_store(key.text))
        if envelope.sha256 not in (vouched, self.state.vouched.get(key.text)):
            signer = next(one for one in tenures if one.public_key == signed_by)
            self._check_tenure(key, signer, message)
        return message

    def _open(self, data: bytes) -> Envelope:
        return Envelope(data)

    def _signer(self, envelope: Envelope, keys: Sequence[str], cls: type[Message]) -> str:
        return envelope.signer(keys, messages.payload_type(cls))

    def _decode(self, cls: type[Message], envelope: Envelope, key: Key) -> Message:
        return messages.decode(
            cls,
            envelope.payload,
            key=key.text,
            study=self.track.study(self.study, key.text),
            unseal=self._keys.unseal if self._keys else None,
        )

    def _tenures(self, key: Key) -> tuple[Tenure, ...]:
        charters = self.state.charters
        if key.site is not None:
            tenures = key_validity.of_site(charters, key.site)
            if not tenures:
                raise SignatureError(f"comes from {key.site!r}, which is not on the roster")
            return tenures
        if key.writer == HELPER_SITE:
            tenures = key_validity.of_helper(charters)
            if not tenures:
                raise SignatureError("comes from a helper, and no charter names one")
            return tenures
        return key_validity.of_aggregator(charters)

    def _check_tenure(self, key: Key, signer: Tenure, message: Message) -> None:
        """Check that a key counts for what it signed."""
        version = message.version if isinstance(message, messages.FinishedMessage) else key.version
        entry = self.state.charter.entry(key.site) if key.site is not None else None
        counts = version is not None and signer.covers(version)
        if entry is not None and entry.state not in messages.ADMITTED and not counts:
            raise SignatureError(f"comes from {key.site!r}, which is {entry.state}")
        if version is None and key.kind in AGGREGATOR_ONCE and signer.last is not None:
            raise SignatureError("is signed by a key of the aggregator that has been replaced")
        if version is not None and not counts:
            raise SignatureError(
                f"is about version {version}, for which the key that signed it does not count"
            )

    def _given(self, continues: messages.Continued | None) -> Mapping[str, Any]:
        if continues is None or not continues.sealed:
            return continues.plans if continues is not None else {}
        unseal = self._keys.unseal if self._keys else None
        try:
            found = messages.opened(continues.sealed, unseal, names=("plans",))
        except MalformedError:
            return {}
        plans = found.get("plans")
        return plans if isinstance(plans, dict) else {}

    def _keep(self, message: Message) -> None:  # noqa: C901, PLR0912, PLR0915  one branch per message
        state = self.state
        match message:
            case Charter():
                state.charters[message.number] = message.on(self.track.name)
                if self._keys is not None:
                    self._keys.learn(message)
                state.given_plans = self._given(message.continues)
                state.rejected = {}  # the roster may have changed: everything gets another chance
            case JoinRequest():
                before = state.joins.get(message.site)
                if before is None or before.key < message.key:
                    state.joins[message.site] = message
            case HelperJoin():
                if state.helper_join is None or state.helper_join.key < message.key:
                    state.helper_join = message
            case messages.SumRequest():
                state.keep_sum_request(message)
            case messages.MaskSum():
                state.mask_sums[message.version] = message
            case messages.FingerprintMessage():
                state.fingerprints[message.site] = message
            case messages.SitePlan():
                state.site_plans[message.site] = message
            case messages.PlanMessage():
                state.keep_plan(message)
            case messages.Admission():
                state.keep_admission(message)
            case messages.RoundRecord():
                state.keep_round(message)
            case messages.ModelManifest():
                state.models[message.version] = message
            case messages.UpdateManifest():
                state.keep_update(message)
            case messages.Attendance():
                newest = state.attendances.get(message.site)
                if newest is None or newest.number < message.number:
                    state.attendances[message.site] = message
            case messages.EvaluationMessage():
                state.evaluations[message.site, message.version, message.variant] = message
            case messages.CrossValidation():
                state.cross_validations[message.site] = message
            case messages.Choice():
                state.choice = message
                for site, sha256 in message.sites.items():
                    state.vouched[layout.cross_validation(site)] = sha256
            case messages.SiteModel():
                state.site_models[message.site] = message
            case messages.FailureMessage():
                state.failures.append(message)
            case messages.StatusMessage():
                before_status = state.statuses.get(message.site)
                if before_status is None or before_status.key < message.key:
                    state.statuses[message.site] = message
            case messages.FinishedMessage():
                state.keep_end(message)
            case _:
                raise MisplacedError("is of a kind that nobody reads", key=message.key)


@contextlib.contextmanager
def _standing_until(what: StandsUntil) -> Iterator[None]:
    """Say of a refusal what it depends on; without this it may be any message."""
    try:
        yield
    except RejectedError as error:
        error.standing_until(what)
        raise


def _verify_first(envelope: Envelope, study: str | None) -> Charter:
    """Verify the charter that a study begins with: it proves itself against the study's id."""
    # Not believed yet: read only to learn which key has to have signed it.
    claimed = messages.decode(Charter, envelope.payload, key=layout.charter(1), study=None)
    proven = study_id(claimed.name, claimed.nonce, claimed.coordinator_key)
    if claimed.study != proven or study not in (None, proven):
        raise MisplacedError(f"is the charter of another study ({claimed.study!r})")
    envelope.verify(claimed.coordinator_key, messages.payload_type(Charter))
    if claimed.number != 1:
        raise MisplacedError(f"says number {claimed.number!r}, but its key says 1")
    _check_tracks(claimed)
    return claimed


def _check_tracks(charter: Charter) -> None:
    """Check that a charter has tracks, each of a name of its own."""
    if not charter.tracks:
        raise MalformedError("has no tracks, though a study makes at least one model")
    names = [track.name for track in charter.tracks]
    if len(set(names)) < len(names):
        raise MalformedError("names a track twice")
