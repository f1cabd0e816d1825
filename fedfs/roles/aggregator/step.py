"""The aggregator's loop: observe, decide, act, publish.

A version is made in three objects: the tensors, under a key that carries their hash; the round
record, whose creation is the decision; and the manifest, which follows from the record and is what
sites look for. See :mod:`fedfs.roles.aggregator.publish_version`. Of two aggregators that decide
differently the store lets one record win.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedfs.aggregation.shared_tensors import share_of, tensor_participation
from fedfs.errors import (
    FedfsError,
    ObjectExistsError,
    ObjectNotFoundError,
    RejectedError,
    StoreError,
    StudyError,
    TensorError,
)
from fedfs.exchange import versions
from fedfs.exchange.fetching import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.make_version import Ingredients, make_version, outputs_in
from fedfs.exchange.payloads import check_values, update_encoding, update_layout
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import Observer
from fedfs.exchange.retention import prune_versions
from fedfs.protocol import actions, decide, layout, participation
from fedfs.protocol.actions import (
    Admit,
    CheckUpdates,
    CloseRound,
    CloseStudy,
    CompleteVersion,
    Done,
    MakePlan,
    PublishInitial,
    Void,
    Wait,
)
from fedfs.protocol.messages import (
    FAILED,
    Admission,
    FinishedMessage,
    PayloadRef,
    PlanMessage,
    UpdateManifest,
)
from fedfs.protocol.state import StudyState, newest_charter
from fedfs.roles.aggregator import initial_version, planning
from fedfs.roles.aggregator.planning import Planner
from fedfs.roles.aggregator.publish_version import Release, in_full
from fedfs.roles.loop import Outcome
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_reader import file_bytes
from fedfs.trust import key_validity
from fedfs.trust.recipients import for_readers

log = logging.getLogger(__name__)

# So that a payload that is slightly wrong is read, and what is wrong can be said.
_SLACK_BYTES = 2**16


class Aggregator:
    """The aggregator of a study.

    Args:
        observer: looks at the whole store.
        publisher: signs with the aggregator's key.
        status: tells others what this process does.
        planner: makes the plan and the initial weights.
        folder: cache of downloaded tensors; may be deleted at any time.
        clock: POSIX seconds; says how long a round has been open.
        keep_versions: newest versions whose payloads are kept; None keeps all.

    Attributes:
        on_work: called before every step that is more than a look.
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
        keep_versions: int | None = None,
    ) -> None:
        self._clock = clock
        self._keep_versions = keep_versions
        self._observer = observer
        publisher.on_message = observer.note
        self._publisher = publisher
        self._status = status
        self._planner = planner
        self._cache = folder / "tensors"
        self._weights = WeightFiles(publisher.store, folder / "weights", observer.vault)
        self._release = Release(publisher, self._weights, self._cache)
        self._checked: dict[str, Path] = {}
        self._moves: dict[str, float] = {}
        self._absent: dict[str, str] = {}
        self.on_work: Callable[[], None] = lambda: None

    @property
    def version(self) -> int:
        """The newest version, -1 before there is one."""
        return self._observer.state.newest

    def rest(self) -> None:
        """Nothing stays in memory between two steps."""

    def step(self) -> Outcome:
        """Do the next thing, if there is one.

        Raises:
            StudyError: the charter cannot be carried out, or this host holds another key.
            StoreError: the store refuses.
        """
        state = self._observer.refresh()
        self._status.version = state.newest
        self._status.rejected = {**state.rejected, **state.unusable}
        action = decide.decide_aggregator(
            state, now_s=self._clock(), checked=self._checked, absent=self._absent
        )
        if isinstance(action, Wait):
            return self._wait(action)
        if isinstance(action, Void):
            self._status.say("finished")
            text = f"nothing to do: nnU-Net plans no {action.configuration} for these data"
            return Outcome(worked=False, finished=True, text=text)
        if isinstance(action, Done):
            self._status.say("finished")
            return Outcome(
                worked=False, finished=True, text=f"finished: version {action.version} is the last"
            )
        version = state.newest if isinstance(action, CloseStudy) else state.newest + 1
        signer = key_validity.in_force(key_validity.of_aggregator(state.charters), version)
        if not self._publisher.use(signer):
            raise StudyError(
                "the charter names another aggregator key than the one this host holds",
                hint="run the aggregator on the host that has it; fedfs key show STORE lists keys",
            )
        self.on_work()
        try:
            text = self._act(action, state)
        except ObjectExistsError as error:
            return self._already_there(error)
        except (ObjectNotFoundError, TensorError) as error:
            # Not copied yet, or damaged since it was published: restoring the file is enough.
            reason = f"a payload that is announced but not there, or damaged: {error}"
            log.warning("waiting for %s", reason)
            self._status.say("wait", waiting_for=reason, error=str(error))
            return Outcome(worked=False, finished=False, text=f"waiting for {reason}")
        except StoreError:
            raise
        except FedfsError as error:
            is_of_study = isinstance(error, StudyError | RejectedError)
            why = str(error) if is_of_study else "its log on that host says why"
            self._status.say(FAILED, error=why)
            raise
        log.info("%s", text)
        if isinstance(action, CloseRound) and self._keep_versions is not None:
            self._prune(self._keep_versions)
        return Outcome(worked=True, finished=False, text=text)

    def _prune(self, keep: int) -> None:
        n_deleted = prune_versions(self._publisher.store, self._observer.state, keep)
        if n_deleted:
            log.info("deleted %d payloads of old versions and updates", n_deleted)

    def _wait(self, action: Wait) -> Outcome:
        reason, absent = action.reason, "; ".join(self._absent.values())
        if absent:
            reason += f"; payloads that are announced but not there: {absent}"
        self._absent.clear()  # the next step looks again
        self._status.say("wait", waiting_for=reason, error=absent)
        return Outcome(worked=False, finished=False, text=f"waiting for {reason}")

    def _act(self, action: actions.AggregatorAction, state: StudyState) -> str:
        match action:
            case MakePlan(sites):
                return self._make_plan(sites, state)
            case Admit(site):
                return self._admit(site, state)
            case PublishInitial():
                return self._publish_initial(state)
            case CompleteVersion(version):
                return self._release.complete(state.rounds[version])
            case CheckUpdates(keys):
                for key in keys[:-1]:
                    log.info("%s", self._check_update(key, state))
                return self._check_update(keys[-1], state)
            case CloseRound():
                return self._close_round(action, state)
            case CloseStudy(version):
                self._publisher.message(
                    FinishedMessage,
                    layout.FINISHED,
                    version=version,
                    weights_sha256=state.models[version].weights_sha256,
                )
                return f"closed the study with version {version}"
        raise StudyError(f"an aggregator cannot do {action!r}")

    def _make_plan(self, sites: tuple[str, ...], state: StudyState) -> str:
        self._status.say("plan")
        fields, text = planning.make_plan(sites, state, self._planner)
        readers = for_readers(newest_charter(state))
        self._publisher.message(PlanMessage, layout.plan(), sealed_for=readers, **fields)
        return text

    def _admit(self, site: str, state: StudyState) -> str:
        try:
            with TensorFile(self._weights.fetch(state.models, state.newest)) as version:
                shapes = {name: version.shape(name) for name in version.names}
            fields = planning.admit(site, state, shapes)
        except StudyError as error:
            state.unusable[participation.announcement(state, site)] = str(error)
            return f"did not admit {site}: {error}"
        self._publisher.message(Admission, layout.admission(site), site=site, **fields)
        return f"admitted {site}, which came after the plan"

    def _publish_initial(self, state: StudyState) -> str:
        charter = newest_charter(state)
        self._status.say("initial weights")
        pretrained = None
        if charter.pretrained is not None:
            pretrained = self._fetch(charter.pretrained)
        with self._scratch() as folder:
            outputs = outputs_in(folder)
            initial_version.write_initial_weights(
                state, self._planner, outputs.model, pretrained=pretrained, scratch=folder
            )
            written = in_full(outputs.model)
            return self._release.publish(0, written, outputs, charter, seconds={})

    def _close_round(self, action: CloseRound, state: StudyState) -> str:
        charter, base = newest_charter(state), state.models[action.base]
        self._status.say("aggregate")
        began_s = time.perf_counter()
        if not all(self._checked[key].exists() for key in action.keys):
            self._checked.clear()
            return "lost the cache, fetching the updates again"
        moves = {key: self._moves[key] for key in action.keys if key in self._moves}
        outliers = versions.outliers(moves, charter.max_move_ratio)
        if outliers:
            return "; ".join(
                self._refuse(state.waiting[key], reason, state) for key, reason in outliers.items()
            )
        updates = [state.waiting[key] for key in action.keys]
        weights = versions.weigh(updates, charter, action.base)
        with self._scratch() as folder:
            memory, outputs = state.rounds[action.base].state, outputs_in(folder)
            parts = Ingredients(
                version=action.base + 1,
                updates=updates,
                payloads=self._checked,
                weights=weights,
                memory=self._fetch(memory) if memory else None,
            )
            written = make_version(parts, state, self._weights, outputs)
            seconds = {"aggregate": time.perf_counter() - began_s}
            text = self._release.publish(
                action.base + 1,
                written,
                outputs,
                charter,
                seconds=seconds,
                updates=versions.used(updates, weights, state),
                excluded=versions.excluded(action.base, updates, self._absent, state),
                opened_at=base.created_at,
                participation=tensor_participation(state, {update.site for update in updates}),
                left_out=versions.left_out(action.base, updates, state),
            )
        self._checked.clear()
        return f"{text} from {len(updates)} updates ({', '.join(u.site for u in updates)})"

    def _check_update(self, key: str, state: StudyState) -> str:
        """Fetch an update's payload and read it once; what cannot be used is noted in the state."""
        update = state.waiting[key]
        encoding = update_encoding(newest_charter(state))
        try:
            base_path = self._weights.fetch(state.models, update.base_version)
        except ObjectNotFoundError:
            if update.base_version == state.newest:
                raise
            return self._refuse(
                update,
                f"the update comes from version {update.base_version}, which is not kept any more",
                state,
            )
        try:
            versions.check_claims(update, state)
            with TensorFile(base_path) as base:
                names = share_of(state, update.site, base.names).own
                expected = update_layout(encoding, base, names)
                path = self._fetch(update.payload, file_bytes(expected) + _SLACK_BYTES)
                with TensorFile(path) as file:
                    file.check_layout(expected)
                    self._moves[key] = check_values(encoding, file, base, names)
        except ObjectNotFoundError as error:
            self._absent[key] = str(error)
            return f"the update of {update.site} is announced, its payload is not there"
        except RejectedError as error:
            return self._refuse(update, error.reason, state)
        self._checked[key] = path
        return f"received the update of {update.site} from version {update.base_version}"

    def _refuse(self, update: UpdateManifest, reason: str, state: StudyState) -> str:
        state.unusable[update.key] = reason
        return f"refused the update of {update.site}: {reason}"

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder for a file that is being made, beside the cache it will move to."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            yield Path(folder)

    def _fetch(self, ref: PayloadRef, max_bytes: int = MAX_MODEL_BYTES) -> Path:
        return fetch_payload(
            self._publisher.store, ref, self._cache, max_bytes=max_bytes, vault=self._observer.vault
        )

    def _already_there(self, error: ObjectExistsError) -> Outcome:
        """Another aggregator was faster, or somebody put something under our key."""
        self._observer.refuse_foreign(error, writer="the aggregator")
        return Outcome(worked=True, finished=False, text="another aggregator was faster")
