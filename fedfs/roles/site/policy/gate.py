"""The gate that everything passes that a site publishes: it holds the site's policy.

Rules:
 * It fails closed: a kind of message or payload that it has no rule for is not published.
 * What says something about the site's data waits for a charter without clash.
 * Scores that may not leave are published as suppressed, which is not the same as zero: nobody then
   waits for them. Anything else that is forbidden is not published at all.
 * In a study with secure scores no other scores leave than masked ones, whatever the policy says.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from fedfs.aggregation.disclosure import excess
from fedfs.errors import PolicyError
from fedfs.learner import SiteFingerprint
from fedfs.protocol import layout
from fedfs.protocol.messages import (
    SUPPRESSED,
    Attendance,
    CrossValidation,
    EvaluationMessage,
    FailureMessage,
    FingerprintMessage,
    JoinRequest,
    Message,
    SiteModel,
    SitePlan,
    StatusMessage,
    UpdateManifest,
)
from fedfs.protocol.state import StudyState
from fedfs.roles.site.policy.comparison import (
    announced_cases,
    require_no_clash,
    shows_scores,
    shows_totals,
)
from fedfs.roles.site.policy.file import PolicyInForce
from fedfs.roles.site.policy.rules import REQUIRED

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

ALWAYS = (Attendance, StatusMessage, FailureMessage)
"""Messages that say nothing about the site's data: that it works, fails, waits or is away."""

_PAYLOADS = ("update-payload", "site-model-payload")


class SiteGate:
    """Lets through what a site's policy allows.

    Args:
        policy: of the site.
        site: its name.
        state: returns the accepted messages.
    """

    def __init__(self, policy: PolicyInForce, site: str, state: Callable[[], StudyState]) -> None:
        self._in_force, self._policy = policy, policy.policy
        self._site, self._state = site, state
        self._rules: Mapping[type[Message], Callable[[Any, bool], Message]] = {
            JoinRequest: self._join,
            FingerprintMessage: self._fingerprint,
            SitePlan: self._plan,
            UpdateManifest: self._update,
            EvaluationMessage: self._evaluation,
            CrossValidation: self._cross_validation,
            SiteModel: self._model,
        }

    @property
    def kinds(self) -> frozenset[type[Message]]:
        """Kinds of messages that it has a rule for."""
        return frozenset((*ALWAYS, *self._rules))

    def admit(self, message: M, *, is_sealed: bool) -> M:
        """See :meth:`fedfs.exchange.gate.Gate.admit`."""
        if type(message) in ALWAYS:
            return message
        rule = self._rules.get(type(message))
        if rule is None:
            raise self._forbidden(message.key, f"it has no rule for a {message.TYPE} message")
        self._require_agreement()
        return cast("M", rule(message, is_sealed))

    def admit_payload(self, key: str, *, is_sealed: bool) -> None:
        """See :meth:`fedfs.exchange.gate.Gate.admit_payload`."""
        parsed = layout.parse(key)
        if parsed is None or parsed.kind not in _PAYLOADS:
            raise self._forbidden(key, "it has no rule for such a payload")
        self._require_agreement()
        self._require_sealed(key, is_sealed=is_sealed)
        if parsed.kind == "site-model-payload":
            self._require_models_elsewhere(key)

    def _join(self, message: JoinRequest, _is_sealed: bool) -> Message:  # noqa: FBT001  see _rules
        self._require_cases(message.key, message.n_cases)
        return message

    def _fingerprint(self, message: FingerprintMessage, is_sealed: bool) -> Message:  # noqa: FBT001
        self._require_sealed(message.key, is_sealed=is_sealed)
        self._require_cases(message.key, message.n_cases)
        found = excess(
            SiteFingerprint(message.n_cases, message.channels, message.geometry),
            extremes=self._policy.extremes,
            digits=self._policy.fingerprint_digits,
            quantiles=self._policy.fingerprint_quantiles,
        )
        if found:
            raise self._forbidden(message.key, f"it holds {found}")
        return message

    def _plan(self, message: SitePlan, is_sealed: bool) -> Message:  # noqa: FBT001  see _rules
        self._require_sealed(message.key, is_sealed=is_sealed)
        self._require_cases(message.key, message.n_cases)
        return message

    def _update(self, message: UpdateManifest, _is_sealed: bool) -> Message:  # noqa: FBT001
        self._require_sealed(message.key, is_sealed=message.payload.is_sealed)
        allowed = self._policy.encodings
        if allowed is not None and message.encoding not in allowed:
            raise self._forbidden(message.key, f"its encoding is {message.encoding}")
        if self._policy.secure_sums == REQUIRED and not message.seed:
            raise self._forbidden(message.key, "the aggregator would see it by itself")
        is_shown = shows_scores(self._policy) and not self._state().charter.secure_scores
        if is_shown or not message.metrics:
            return message
        self._log_suppressed("losses and scores of the training", message.key)
        return replace(message, metrics={})

    def _evaluation(self, message: EvaluationMessage, _is_sealed: bool) -> Message:  # noqa: FBT001
        if message.is_masked and shows_totals(self._policy):
            return message
        if not message.is_masked and self._may_show(message.n_cases):
            return message
        self._log_suppressed("scores", message.key)
        return message.without_scores(suppressed=True)

    def _cross_validation(self, message: CrossValidation, _is_sealed: bool) -> Message:  # noqa: FBT001
        if self._may_show(message.n_cases):
            return message
        self._log_suppressed("scores", message.key)
        return replace(message, n_cases=0, scores={}, extra={}, suppressed=True)

    def _model(self, message: SiteModel, is_sealed: bool) -> Message:  # noqa: FBT001  see _rules
        self._require_sealed(message.key, is_sealed=is_sealed and message.payload.is_sealed)
        self._require_models_elsewhere(message.key)
        return message

    def _may_show(self, n_cases: int) -> bool:
        """Return whether scores over so many cases may leave as they are."""
        if self._state().charter.secure_scores:
            return False
        return shows_scores(self._policy) and self._policy.has_enough_scored(n_cases)

    def _require_agreement(self) -> None:
        state = self._state()
        require_no_clash(
            state.charter,
            self._policy,
            source=self._in_force.source,
            n_cases=announced_cases(state, self._site),
        )

    def _require_cases(self, key: str, n_cases: int) -> None:
        if n_cases < self._policy.minimum_cases:
            raise self._forbidden(
                key,
                f"it describes {n_cases} cases, and the fewest are {self._policy.minimum_cases} "
                "(minimum_cases)",
            )

    def _require_sealed(self, key: str, *, is_sealed: bool) -> None:
        if self._policy.encryption == REQUIRED and not is_sealed:
            raise self._forbidden(key, "it is not encrypted")

    def _require_models_elsewhere(self, key: str) -> None:
        if not self._policy.models_elsewhere:
            raise self._forbidden(key, "models of this site stay here (models_elsewhere)")

    def _forbidden(self, key: str, reason: str) -> PolicyError:
        return PolicyError(
            f"{key} is {SUPPRESSED} ({self._in_force.source}): {reason}.",
            hint="fedfs site policy prints the policy; with --check it explains each clash",
        )

    def _log_suppressed(self, what: str, key: str) -> None:
        log.info(
            "%s in %s %s (scores = %s, minimum_scored_cases = %d)",
            what, key, SUPPRESSED, self._policy.scores, self._policy.minimum_scored_cases,
        )  # fmt: skip
