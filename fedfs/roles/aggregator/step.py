"""Actions of the aggregator on one track.

A version is made in three objects: the tensors, under a key that carries their hash; the round
record, whose creation is the decision; and the manifest, which follows from the record and is what
sites look for. See :mod:`fedfs.roles.aggregator.publish_version`. Of two aggregators that decide
differently the store lets one record win.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedfs.aggregation.shared_tensors import tensor_participation
from fedfs.errors import (
    FedfsError,
    RejectedError,
    SealedError,
    SetupError,
    StoreError,
    StudyError,
    TensorError,
)
from fedfs.exchange import payloads, secure_scores, secure_sum, versions
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.make_version import make_version, outputs_in, strategy_of
from fedfs.exchange.memory import MemoryFiles
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.retention import prune_versions
from fedfs.protocol import actions, participation
from fedfs.protocol.actions import AggregatorAction, Wait
from fedfs.protocol.decide import decide_aggregator
from fedfs.protocol.decide_sum import updates_in_sum
from fedfs.protocol.messages import FAILED, PayloadRef, UpdateManifest
from fedfs.protocol.round_status import expected_s
from fedfs.protocol.score_rules import NOWHERE_ELSE, SetsElsewhere
from fedfs.protocol.state import StudyState
from fedfs.roles.aggregator import initial_version, planning
from fedfs.roles.aggregator.closing import closing_message
from fedfs.roles.aggregator.planning import Planner
from fedfs.roles.aggregator.publish_version import Release, in_full
from fedfs.roles.aggregator.update_checks import UpdateChecks, unreadable
from fedfs.roles.loop import Outcome
from fedfs.roles.step import Role
from fedfs.tensors.canonical import TensorFile
from fedfs.trust import key_validity
from fedfs.trust.recipients import for_readers

log = logging.getLogger(__name__)


class Aggregator(Role[AggregatorAction]):
    """The aggregator at work on one track.

    Args:
        observer, publisher, status: as of a role; the observer looks at the whole store.
        planner: makes the plan and the initial weights.
        folder: cache of downloaded tensors; may be deleted at any time.
        clock: POSIX seconds; says how long a round has been open.
        before: observers of the tracks that have to be done before anybody begins with this one.
        keep_versions: newest versions whose payloads are kept; None keeps all.
        timer: seconds that the work on a version takes, from any origin.
        elsewhere: returns the sets of sites whose totals of scores are known on other tracks.
    """

    def __init__(
        self,
        *,
        observer: Observer,
        publisher: Publisher,
        status: StatusReporter,
        planner: Planner,
        folder: Path,
        clock: Clock,
        before: Sequence[Observer] = (),
        keep_versions: int | None = None,
        timer: Clock = time.perf_counter,
        elsewhere: Callable[[], SetsElsewhere] = lambda: NOWHERE_ELSE,
    ) -> None:
        super().__init__("the aggregator", observer, publisher, status)
        self._clock = clock
        self._timer = timer
        self._before = before
        self._keep_versions = keep_versions
        self._planner = planner
        self._cache = folder / "tensors"
        self._weights = WeightFiles(publisher.store, folder / "weights", observer.vault)
        self._release = Release(publisher, self._weights, self._cache, timer=timer)
        self._memory = MemoryFiles(self._weights, self._cache, self._fetch)
        self._checks = UpdateChecks(self._weights, self._fetch)
        self._only_checked = False
        self._elsewhere = elsewhere
        self._sets_elsewhere = NOWHERE_ELSE

    @property
    def refused(self) -> Mapping[str, str]:
        """Key -> why it cannot be used, of updates and announcements that were checked here."""
        return self._checks.refused

    def step(self) -> Outcome:
        """Do the next thing; see :meth:`fedfs.roles.step.Role.step`.

        To check updates is to look closer, and counts for nothing: a payload that is still not
        there would else be looked for as often as possible, and a process that starts often would
        always have worked.
        """
        while True:
            self._only_checked = False
            outcome = super().step()
            if not (self._only_checked and outcome.worked):
                return outcome

    def check_memory(self) -> None:
        """Check, before anything is waited for, that this host can read the strategy's memory.

        Raises:
            SetupError: it is encrypted for a key that this host does not hold.
        """
        state = self._observer.state
        record = state.rounds.get(max(state.rounds, default=-1))
        if record is None or state.finished is not None:
            return
        try:
            self._memory.of(state, record.version)
        except SealedError as error:
            text = f"the memory of {record.strategy.name} after version {record.version}"
            self._status.say(FAILED, error=f"{text} cannot be decrypted on the aggregator's host")
            raise SetupError(
                f"This host cannot decrypt {text}, without which the next version cannot be made.",
                hint=planning.BRING_KEYS,
            ) from error
        except (StoreError, TensorError) as error:
            log.warning("the strategy's memory will be waited for: %s", error)

    def decide(self, state: StudyState) -> AggregatorAction:
        """See :func:`fedfs.protocol.decide.decide_aggregator`."""
        barred = {
            site
            for site in state.charter.active_sites
            if not all(before.state.is_admitted(site) for before in self._before)
        }
        now_s = self._clock()
        self._checks.note(state, now_s)
        self._sets_elsewhere = self._elsewhere()
        return decide_aggregator(
            state,
            now_s=now_s,
            checked=replace(self._checks.results, totals_elsewhere=self._sets_elsewhere),
            barred=barred,
            fewest_updates=strategy_of(state.charter).fewest_updates,
        )

    def explain_wait(self, action: Wait, state: StudyState) -> tuple[str, str]:
        """Return what is waited for, and which payloads are not there or cannot be decrypted."""
        request = state.sum_requests.get(state.newest + 1)
        self._checks.look_again(updates_in_sum(state, request) if request is not None else ())
        return self._checks.explain(action.reason)

    def keys(self, state: StudyState, action: AggregatorAction) -> tuple[str]:
        """Return the key that counts for the version that an action makes or closes with."""
        is_end = isinstance(action, actions.CloseStudy)
        version = max(state.newest, 0) if is_end else state.newest + 1
        return (key_validity.in_force(key_validity.of_aggregator(state.charters), version),)

    def tell_failure(self, error: FedfsError, action: AggregatorAction, state: StudyState) -> str:
        """Return the error itself where it is about the study, and so names nothing of the host."""
        if isinstance(error, StudyError | RejectedError):
            return str(error)
        return super().tell_failure(error, action, state)

    def tidy(self, action: AggregatorAction, state: StudyState) -> None:
        """Delete payloads of old versions once a new one is made."""
        if isinstance(action, actions.CloseRound) and self._keep_versions is not None:
            n_deleted = prune_versions(self._publisher.store, state, self._keep_versions)
            if n_deleted:
                log.info("deleted %d payloads of old versions and updates", n_deleted)

    def act(self, action: AggregatorAction, state: StudyState) -> str:
        """Carry an action out; see :meth:`fedfs.roles.step.Role.act`."""
        match action:
            case actions.MakePlan(sites):
                return self._make_plan(sites, state)
            case actions.Admit(site):
                return self._admit(site, state)
            case actions.PublishInitial():
                return self._publish_initial(state)
            case actions.CompleteVersion(version):
                return self._release.complete(state.rounds[version])
            case actions.CheckUpdates(keys):
                self._only_checked = True
                for key in keys[:-1]:
                    log.info("%s", self._checks.check(key, state))
                return self._checks.check(keys[-1], state)
            case actions.RequestSum():
                return self._request_sum(action, state)
            case actions.CloseRound():
                return self._close_round(action, state)
            case actions.CloseStudy(version):
                end, text = closing_message(version, state)
                self._publisher.publish(end)
                return text
        raise StudyError(f"An aggregator cannot do {action!r}.")

    def _make_plan(self, sites: tuple[str, ...], state: StudyState) -> str:
        self._status.say("plan")
        message, text = planning.make_plan(sites, state, self._planner)
        self._publisher.publish(message, sealed_for=for_readers(state.charter))
        return text

    def _admit(self, site: str, state: StudyState) -> str:
        with TensorFile(self._weights.fetch(state.models, state.newest)) as version:
            shapes = {name: version.shape(name) for name in version.names}
        try:  # of what is published, no text may come from this host's files
            message = planning.admit(site, state, shapes)
        except StudyError as error:
            self._checks.refused[participation.announcement(state, site)] = str(error)
            return f"did not admit {site}: {error}"
        except SetupError as error:
            key = participation.announcement(state, site)
            self._checks.sealed[key] = unreadable(f"the announcement of {site}")
            return f"did not admit {site} yet: {error}"
        self._publisher.publish(message)
        return f"admitted {site}, which came after the plan"

    def _publish_initial(self, state: StudyState) -> str:
        charter = state.charter
        self._status.say("initial weights")
        pretrained = self._fetch(charter.pretrained) if charter.pretrained else None
        with self._scratch() as folder:
            outputs = outputs_in(folder)
            initial_version.write_initial_weights(
                state, self._planner, outputs.model, pretrained=pretrained, scratch=folder
            )
            written = in_full(outputs.model)
            return self._release.publish(0, written, outputs, charter, seconds={})

    def _request_sum(self, action: actions.RequestSum, state: StudyState) -> str:
        if not action.keys:
            self._publisher.publish(secure_scores.request_for_last(state, self._sets_elsewhere))
            return f"asked the helper for totals of the scores of version {action.base}"
        updates = [state.waiting[key] for key in action.keys]
        with TensorFile(self._weights.fetch(state.models, action.base)) as base:
            shapes = {name: base.shape(name) for name in base.names}
        request = secure_sum.make_request(
            state, updates, shapes, action.base + 1, elsewhere=self._sets_elsewhere
        )
        self._publisher.publish(request)
        sites = ", ".join(one.site for one in request.updates)
        return f"asked the helper for the sum for version {request.version} ({sites})"

    def _close_round(self, action: actions.CloseRound, state: StudyState) -> str:
        charter, base = state.charter, state.models[action.base]
        self._status.say("aggregate")
        began_s = self._timer()
        if not all(self._checks.usable[key].exists() for key in action.keys):
            self._checks.usable.clear()
            return "lost the cache, fetching the updates again"
        moves = {key: self._checks.moves[key] for key in action.keys if key in self._checks.moves}
        outliers = versions.outliers(moves, charter.max_move_ratio)
        if outliers:
            return "; ".join(
                self._checks.refuse(state.waiting[key], reason) for key, reason in outliers.items()
            )
        updates = [state.waiting[key] for key in action.keys]
        with self._scratch() as folder:
            summed = self._unmask(updates, state, action.base + 1, folder)
            weights: Mapping[str, float]
            if summed is not None:
                weights, took_part = summed.weights, summed.participation(state)
            else:
                weights = versions.weigh(updates, charter, action.base)
                took_part = tensor_participation(state, {update.site for update in updates})
            before, outputs = state.rounds[action.base], outputs_in(folder)
            written = make_version(
                state,
                self._weights,
                outputs,
                version=action.base + 1,
                updates=updates,
                payloads=self._checks.usable,
                weights=weights,
                memory=self._memory.of(state, action.base),
                ema=self._fetch(before.ema) if before.ema else None,
                summed=summed,
            )
            seconds = {"aggregate": self._timer() - began_s}
            left = versions.left_out(action.base, updates, self._checks.results, state)
            text = self._release.publish(
                action.base + 1,
                written,
                outputs,
                charter,
                seconds=seconds,
                updates=versions.used(updates, weights, state, self._checks.seen_s),
                excluded=versions.excluded(action.base, updates, self._checks.results, state),
                opened_at=base.created_at,
                participation=took_part,
                secure=secure_sum.record_of(state, action.base + 1),
                scores=secure_scores.totals(state, action.base + 1),
                left_out=left,
                expected_s=expected_s(state, participation.participants(state)),
            )
        self._checks.usable.clear()
        if not updates:
            return f"{text}, equal to the one before, as no update could be used"
        text = f"{text} from {len(updates)} updates ({', '.join(u.site for u in updates)})"
        return text + versions.without(left, state)

    def _unmask(
        self, updates: Sequence[UpdateManifest], state: StudyState, version: int, folder: Path
    ) -> secure_sum.Summed | None:
        """Return the sum of a version's updates, where nobody may see them; else None."""
        if state.charter.secure_sums is None or not updates:
            return None
        target = folder / "sum.safetensors"
        return secure_sum.unmask(state, version, self._checks.usable, target, fetch=self._fetch)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder for a file that is being made, beside the cache it will move to."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            yield Path(folder)

    def _fetch(self, ref: PayloadRef, max_bytes: int = payloads.MAX_MODEL_BYTES) -> Path:
        return payloads.fetch_payload(
            self._publisher.store, ref, self._cache, max_bytes=max_bytes, vault=self._observer.vault
        )
