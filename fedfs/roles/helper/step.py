"""Actions of the helper on one track: answer requests for sums of masks.

What it must not answer is decided by :mod:`fedfs.protocol.sum_rules`, from what is on the store and
from what this host remembers.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedfs.aggregation.score_totals import masks_of
from fedfs.aggregation.secure_sums import MaskPart, write_mask_sum
from fedfs.errors import StudyError
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.retention import prune_sums
from fedfs.protocol import layout, score_rules, sum_rules
from fedfs.protocol.actions import AnswerRequest, Done, RefuseRequest, Wait
from fedfs.protocol.decide_sum import decide_helper
from fedfs.protocol.messages import MaskSum, PayloadRef, SumRequest
from fedfs.protocol.score_rules import NOWHERE_ELSE, SetsElsewhere
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import rules_of
from fedfs.roles.helper.memory import AnsweredUpdates
from fedfs.roles.helper.seeds import open_score_seeds, open_seeds
from fedfs.roles.step import Role
from fedfs.trust import key_validity
from fedfs.trust.masks import MaskContext, as_text
from fedfs.trust.recipients import for_aggregator
from fedfs.trust.sealing import Identity

log = logging.getLogger(__name__)

APPROVE = "the coordinator to approve this helper, by: fedfs helper approve STORE"


class Helper(Role[AnswerRequest]):
    """The helper at work on one track.

    Args:
        observer, publisher, status: as of a role.
        memory: what this host has answered.
        identities: returns the helper's keys of age on this host.
        folder: for sums that are being made.
        keep_versions: sums for older versions are deleted once used; None keeps all.
        elsewhere: returns the sets of sites whose totals of scores are known on other tracks, by
            the store; what this host has answered there is added.
    """

    def __init__(
        self,
        *,
        observer: Observer,
        publisher: Publisher,
        status: StatusReporter,
        memory: AnsweredUpdates,
        identities: Callable[[], Sequence[Identity]],
        folder: Path,
        keep_versions: int | None = None,
        elsewhere: Callable[[], SetsElsewhere] = lambda: NOWHERE_ELSE,
    ) -> None:
        super().__init__("the helper", observer, publisher, status)
        self._memory = memory
        self._identities = identities
        self._folder = folder
        self._keep_versions = keep_versions
        self._elsewhere = elsewhere
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        """Key of a request -> why it is not answered."""
        return self._refused

    def decide(self, state: StudyState) -> AnswerRequest | Wait | Done:
        """See :func:`fedfs.protocol.decide_sum.decide_helper`.

        Raises:
            StudyError: another helper than this one is the study's.
        """
        waits = self._waits_for_approval(state)
        if waits is not None:
            return waits
        request = state.sum_requests.get(state.newest + 1)
        if request is not None and (
            sum_rules.missing_updates(state, request) or score_rules.missing_scores(state, request)
        ):
            state = self._observer.refresh()  # the request says where else to look
        action = decide_helper(state, self._memory.read())
        self._refused = {action.key: action.fault} if isinstance(action, RefuseRequest) else {}
        self._status.rejected = {**state.rejected, **self._refused}
        return action

    def _waits_for_approval(self, state: StudyState) -> Wait | None:
        key, asked = self._key(state), state.helper_join
        if state.charter.secure_sums is None or (key and self._publisher.use(key)):
            return None
        if asked is not None and self._publisher.use(asked.public_key):
            return Wait(APPROVE)
        raise StudyError(
            "This host does not hold the key of the study's helper.",
            hint="work on the host that does, or ask to be the helper: fedfs helper join STORE",
        )

    def explain_wait(self, action: Wait, state: StudyState) -> tuple[str, str]:  # noqa: ARG002  see Role
        """Return what is waited for, and why a request is not answered."""
        return action.reason, action.fault if isinstance(action, RefuseRequest) else ""

    def keys(self, state: StudyState, action: AnswerRequest) -> tuple[str]:  # noqa: ARG002  see Role
        """Return the key that counts for the next version."""
        return (self._key(state),)

    def _key(self, state: StudyState) -> str:
        tenures = key_validity.of_helper(state.charters)
        return key_validity.in_force(tenures, state.newest + 1)

    def act(self, action: AnswerRequest, state: StudyState) -> str:
        """Publish the sum of masks; see :meth:`fedfs.roles.step.Role.act`."""
        request, rules = state.sum_requests[action.version], rules_of(state.charter)
        self._status.say("sum masks")
        seeds, faults = open_seeds(state, request, self._identities())
        counts = {one.site: one.coefficient for one in request.updates if one.site in seeds}
        tensors = sum_rules.summed(request.sharing, counts, rules)
        with self._memory.alone():
            masks, left_out, refused = self._sum_score_masks(request, state)
            counted = {
                layout.evaluation(site, request.version - 1, variant)
                for variant in masks
                for site in request.scores[variant]
                if site not in left_out
            }
            named = {sum_rules.update_key(one) for one in request.updates}
            self._memory.note(named | counted, state.digests[request.key])
        payload = None
        if tensors:
            payload = self._publish_sum(request, state, seeds, tensors)
        self._publisher.publish(
            MaskSum(
                key=layout.mask_sum(request.version),
                version=request.version,
                request_sha256=state.digests[request.key],
                payload=payload,
                left_out=faults,
                scores=masks,
                scores_left_out=left_out,
                scores_refused=refused,
            )
        )
        for variant, why in refused.items():
            log.warning("no total of the scores %s of version %d: %s",
                        variant, request.version - 1, why)  # fmt: skip
        if not request.updates:
            return f"published the sums of the masks of scores of version {request.version - 1}"
        without = f"; left out: {', '.join(f'{s} ({why})' for s, why in faults.items())}"
        text = f"published the sum of the masks of {len(seeds)} updates for version"
        if payload is None:
            text = "answered without a sum, as too few updates are left, the request for version"
        return f"{text} {request.version}{without if faults else ''}"

    def tidy(self, action: AnswerRequest, state: StudyState) -> None:  # noqa: ARG002  see Role
        """Delete payloads of old sums."""
        if self._keep_versions is not None:
            prune_sums(self._publisher.store, state, self._keep_versions)

    def _sum_score_masks(
        self, request: SumRequest, state: StudyState
    ) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Return sums by variant, and why some sites and variants are not among them."""
        charter, version = state.charter, request.version - 1
        seeds, left_out = open_score_seeds(state, request, self._identities())
        answered = {**score_rules.answered_scores(state), **self._memory.read()}
        refused = score_rules.fault_of_scores(
            state, request, seeds, answered, self._sets_elsewhere(state)
        )
        masks = {
            variant: masks_of(
                [
                    (seed, MaskContext.of_update(charter, site, version))
                    for site, seed in of.items()
                ],
                variant,
                score_rules.n_values(charter),
            )
            for variant, of in seeds.items()
            if variant not in refused
        }
        return {variant: as_text(total) for variant, total in masks.items()}, left_out, refused

    def _sets_elsewhere(self, state: StudyState) -> SetsElsewhere:
        charter = state.charter
        others = [track.name for track in charter.tracks if track.name != charter.track.name]
        remembered = score_rules.earlier_sets(self._memory.elsewhere(others))
        return score_rules.together(self._elsewhere(), remembered)

    def _publish_sum(
        self,
        request: SumRequest,
        state: StudyState,
        seeds: Mapping[str, bytes],
        tensors: Mapping[str, Sequence[str]],
    ) -> PayloadRef:
        charter = state.charter
        parts = [
            MaskPart(
                site=one.site,
                seed=seeds[one.site],
                context=MaskContext.of_update(charter, one.site, one.base_version),
                coefficient=one.coefficient,
            )
            for one in request.updates
            if one.site in seeds
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "sum.safetensors"
            shapes = {name: tuple(request.tensors[name]) for name in tensors}
            write_mask_sum(path, shapes, parts, tensors)
            return self._publisher.payload(
                path,
                lambda sha256: layout.payload_of_version("mask-sum", request.version, sha256),
                sealed_for=for_aggregator(charter),
            )
