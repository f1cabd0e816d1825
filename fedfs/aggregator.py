"""The aggregator's loop: observe, decide, act, publish.

A version is made in three objects: the tensors, under a key that carries their hash; the round
record, whose creation is the decision; and the manifest, which follows from the record and is what
sites look for. Of two aggregators that decide differently the store lets one record win, and both
then publish the same manifest. A crash between any two of them is completed by whoever comes next.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedfs import versions
from fedfs.aggregate import fingerprints
from fedfs.checkpoint import TensorFile, weights_sha256
from fedfs.errors import (
    MalformedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RejectedError,
    StudyError,
    TensorError,
)
from fedfs.learner import Progress, SiteFingerprint
from fedfs.loop import Outcome
from fedfs.observe import (
    MAX_MODEL_BYTES,
    Observer,
    fetch_payload,
    newest_charter,
    prune_cache,
)
from fedfs.protocol import layout, rounds
from fedfs.protocol.messages import (
    Charter,
    Excluded,
    FinishedMessage,
    ModelManifest,
    PayloadRef,
    PlanMessage,
    RoundRecord,
    UpdateManifest,
    UsedUpdate,
)
from fedfs.protocol.rounds import (
    CheckUpdate,
    CloseRound,
    CloseStudy,
    CompleteVersion,
    Done,
    MakePlan,
    PublishInitial,
    Wait,
)
from fedfs.protocol.state import StudyState
from fedfs.publish import Publisher, StatusReporter
from fedfs.tensorfile import file_bytes

log = logging.getLogger(__name__)

# So that a payload that is slightly wrong is read, and what is wrong can be said.
_SLACK_BYTES = 2**16


class Planned(Protocol):
    """What planning gives: nnU-Net plans, the ``dataset.json`` they were made for, versions."""

    @property
    def plans(self) -> Mapping[str, Any]:
        """nnU-Net plans."""

    @property
    def dataset_json(self) -> Mapping[str, Any]:
        """The ``dataset.json`` of the federation."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Software that made the plan."""


class Planner(Protocol):
    """Plans and makes initial weights; :mod:`fedfs.nnunet` does, in a process of its own."""

    def plan(self, charter: Charter, fingerprint: Mapping[str, Any], n_cases: int) -> Planned:
        """Plan once for all sites from the federated fingerprint in nnU-Net's format."""

    def initial_weights(
        self, charter: Charter, plan: PlanMessage, path: Path, *, pretrained: Path | None
    ) -> None:
        """Write version 0 to ``path``: the same tensors for the same charter and plan."""


class Aggregator:
    """The aggregator of a study.

    Args:
        observer: looks at the whole store.
        publisher: signs with the aggregator's key.
        status: tells others what this process does.
        planner: makes the plan and the initial weights.
        folder: cache of downloaded tensors; may be deleted at any time.
    """

    def __init__(
        self,
        *,
        observer: Observer,
        publisher: Publisher,
        status: StatusReporter,
        planner: Planner,
        folder: Path,
    ) -> None:
        self._observer = observer
        self._publisher = publisher
        self._status = status
        self._planner = planner
        self._cache = folder / "tensors"
        self._seconds: dict[str, float] = {}
        self._checked: dict[str, Path] = {}

    def step(self) -> Outcome:
        """Do the next thing, if there is one.

        Raises:
            StudyError: the charter cannot be carried out, or this host holds another key.
            StoreError: the store refuses.
        """
        state = self._observer.refresh()
        self._status.version = state.newest
        self._status.rejected = {**state.rejected, **state.unusable}
        action = rounds.decide_aggregator(state, checked=self._checked)
        if isinstance(action, Wait):
            self._status.say("wait", waiting_for=action.reason)
            return Outcome(worked=False, finished=False, text=f"waiting for {action.reason}")
        if isinstance(action, Done):
            self._status.say("finished")
            return Outcome(
                worked=False, finished=True, text=f"finished: version {action.version} is the last"
            )
        if newest_charter(state).aggregator_key != self._publisher.public_key:
            raise StudyError(
                "the charter names another aggregator key than the one this host holds",
                hint="run the aggregator on the host where `fedfs init` was run",
            )
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
        log.info("%s", text)
        return Outcome(worked=True, finished=False, text=text)

    def _act(self, action: rounds.AggregatorAction, state: StudyState) -> str:
        match action:
            case MakePlan(sites):
                return self._make_plan(sites, state)
            case PublishInitial():
                return self._publish_initial(state)
            case CompleteVersion(version):
                return self._complete(state.rounds[version])
            case CheckUpdate(key):
                return self._check_update(key, state)
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
        charter = newest_charter(state)
        self._status.say("plan")
        parts: dict[str, SiteFingerprint] = {}
        for site in sites:
            message = state.fingerprints[site]
            part = SiteFingerprint(message.n_cases, message.channels, message.geometry)
            try:
                fingerprints.validate_fingerprint(part)
                if len(part.channels) != len(charter.dataset.channel_names):
                    raise MalformedError(f"holds {len(part.channels)} channels")
            except RejectedError as error:
                raise StudyError(
                    f"the fingerprint of {site} cannot be used: it {error}",
                    hint="settle it with the site; the coordinator may remove it from the roster",
                ) from error
            parts[site] = part
        merged = fingerprints.merge_fingerprints(parts)
        pooled = fingerprints.to_nnunet(merged)
        planned = self._planner.plan(charter, pooled, merged.n_cases)
        self._publisher.message(
            PlanMessage,
            layout.plan(),
            sites={s: state.digests[layout.fingerprint(s)] for s in sites},
            n_cases=merged.n_cases,
            fingerprint=pooled,
            plans=planned.plans,
            dataset_json=planned.dataset_json,
            versions=dict(planned.versions),
        )
        return f"planned for {len(sites)} sites with {merged.n_cases} cases"

    def _publish_initial(self, state: StudyState) -> str:
        charter = newest_charter(state)
        if state.plan is None:
            raise StudyError("there is no plan to initialise a network from")
        self._status.say("initial weights")
        pretrained = None
        if charter.pretrained is not None:
            pretrained = self._fetch(charter.pretrained)
        with self._scratch() as folder:
            path = folder / "model.safetensors"
            self._planner.initial_weights(charter, state.plan, path, pretrained=pretrained)
            record = self._publish_version(0, path, charter)
        return self._complete(record)

    def _close_round(self, action: CloseRound, state: StudyState) -> str:
        charter, base = newest_charter(state), state.models[action.base]
        self._status.say("aggregate")
        self._seconds = {}
        began_s = time.perf_counter()
        if not all(self._checked[key].exists() for key in action.keys):
            self._checked.clear()
            return "lost the cache, fetching the updates again"
        updates = [self._update(key, state) for key in action.keys]
        base_path = self._fetch(base.payload)
        weights = versions.weigh(updates, charter)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._scratch())
            memory = state.rounds[action.base].state
            parts = versions.Combination(
                base=stack.enter_context(TensorFile(base_path)),
                state=stack.enter_context(TensorFile(self._fetch(memory))) if memory else None,
                updates={update.site: self._checked[update.key] for update in updates},
                weights=weights,
                version=action.base + 1,
            )
            path, state_path = folder / "model.safetensors", folder / "state.safetensors"
            has_state = versions.combine(parts, charter, model=path, state=state_path)
            self._seconds["aggregate"] = time.perf_counter() - began_s
            record = self._publish_version(
                action.base + 1,
                path,
                charter,
                state_path=state_path if has_state else None,
                used=versions.used(updates, weights, state),
                excluded=versions.excluded(action.base, state),
                opened_at=base.created_at,
            )
        text = self._complete(record)
        self._checked.clear()
        prune_cache(self._cache, [record.model.sha256])
        return f"{text} from {len(updates)} updates ({', '.join(u.site for u in updates)})"

    def _update(self, key: str, state: StudyState) -> UpdateManifest:
        return next(update for update in state.updates.values() if update.key == key)

    def _check_update(self, key: str, state: StudyState) -> str:
        """Fetch an update's payload and read it once; what cannot be used is noted in the state."""
        update = self._update(key, state)
        base = state.models[update.base_version]
        base_path = self._fetch(base.payload)
        try:
            versions.check_claims(update, state)
            with TensorFile(base_path) as base_file:
                expected = versions.payload_layout(base_file, newest_charter(state))
                path = self._fetch(update.payload, file_bytes(expected) + _SLACK_BYTES)
                with TensorFile(path) as file:
                    file.check_layout(expected)
                    versions.check_values(file, base_file, newest_charter(state))
        except RejectedError as error:
            state.unusable[key] = str(error)
            return f"refused the update of {update.site}: {error}"
        self._checked[key] = path
        return f"received the update of {update.site} from version {update.base_version}"

    def _publish_version(
        self,
        version: int,
        path: Path,
        charter: Charter,
        *,
        state_path: Path | None = None,
        used: tuple[UsedUpdate, ...] = (),
        excluded: tuple[Excluded, ...] = (),
        opened_at: str = "",
    ) -> RoundRecord:
        """Upload the tensors at ``path``, then decide by creating the round record."""
        self._status.progress(Progress(step="publish", done=0, total=0, unit="bytes"))
        began_s = time.perf_counter()
        with TensorFile(path) as file:
            sha256, shapes = weights_sha256(file), [file.shape(name) for name in file.names]
        ref = self._publisher.payload(path, lambda sha: layout.model_payload(version, sha))
        path.replace(self._cache / f"{ref.sha256}.safetensors")
        memory = None
        if state_path is not None:
            memory = self._publisher.payload(
                state_path, lambda sha: layout.state_payload(version, sha)
            )
        self._seconds["publish"] = time.perf_counter() - began_s
        return self._publisher.message(
            RoundRecord,
            layout.round_record(version),
            version=version,
            updates=used,
            excluded=excluded,
            policy=charter.policy,
            weighting=charter.weighting,
            strategy=charter.strategy,
            model=ref,
            weights_sha256=sha256,
            n_tensors=len(shapes),
            n_parameters=sum(math.prod(shape) for shape in shapes),
            encoding="fp32",
            opened_at=opened_at,
            state=memory,
            seconds={name: round(value, 4) for name, value in self._seconds.items()},
        )

    def _complete(self, record: RoundRecord) -> str:
        """Publish the manifest that a round record calls for; its bytes follow from the record."""
        manifest = ModelManifest(
            study=record.study,
            key=layout.model(record.version),
            created_at=record.created_at,
            version=record.version,
            payload=record.model,
            weights_sha256=record.weights_sha256,
            n_tensors=record.n_tensors,
            n_parameters=record.n_parameters,
            encoding=record.encoding,
        )
        self._publisher.signed(manifest)
        return f"published version {record.version}"

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder for a file that is being made, beside the cache it will move to."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            yield Path(folder)

    def _fetch(self, ref: PayloadRef, max_bytes: int = MAX_MODEL_BYTES) -> Path:
        return fetch_payload(self._publisher.store, ref, self._cache, max_bytes=max_bytes)

    def _already_there(self, error: ObjectExistsError) -> Outcome:
        """Another aggregator was faster, or somebody put something under our key."""
        self._observer.refuse_foreign(error, writer="the aggregator")
        return Outcome(worked=True, finished=False, text="another aggregator was faster")
