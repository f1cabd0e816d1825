"""The site's loop: observe, decide, act, publish.

State is what is on the store (and, for speed, what nnU-Net left on this host): the loop keeps
nothing else, so it may be killed at any instruction and started again.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfs.errors import (
    DatasetError,
    FedfsError,
    PolicyError,
    StudyError,
    TrainingError,
)
from fedfs.exchange.observer import Observer
from fedfs.exchange.payloads import update_encoding, write_update
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.retention import prune_updates
from fedfs.learner import Learner, RoundTask
from fedfs.protocol import actions, layout, messages, participation
from fedfs.protocol.actions import SiteAction, Wait
from fedfs.protocol.decide import decide_site
from fedfs.protocol.messages import ASYM, Attendance
from fedfs.protocol.state import StudyState
from fedfs.roles.site.announcement import Announcement, require_announced
from fedfs.roles.site.case_summaries import CaseSummaries
from fedfs.roles.site.failure import publish_failure
from fedfs.roles.site.masked_update import mask
from fedfs.roles.site.network import SiteNetwork, SiteNetworks, adopted_plan
from fedfs.roles.site.own_model import PersonalModel, has_scored_personal
from fedfs.roles.site.policy.file import NO_FILE, PolicyInForce
from fedfs.roles.site.policy.hold import PolicyHold
from fedfs.roles.site.round_task import round_task
from fedfs.roles.site.scoring import Scoring
from fedfs.roles.site.shared_models import act_on_shared_models
from fedfs.roles.step import Role
from fedfs.trust import key_validity
from fedfs.trust.recipients import for_aggregator

log = logging.getLogger(__name__)


class Site(Role[SiteAction]):
    """One site at work on one track.

    Args:
        name: the site's name.
        observer, publisher, status: as of a role.
        learner: does the work on the site's own data.
        folder: fedfs's own folder for this site: downloaded models, outgoing updates.
        local_minutes: as of the charter, where this site wants less.
        attendance: whether this site wants to take part, asked at every step; None to be present.
        keep_versions: payloads of own updates to older versions are deleted; None keeps all.
        alone: trains a model of this site's data alone in the end, beside the other; None for none.
        personal: fine-tunes the last version on this site's data in the end; None for none.
        averages: variant -> learner that keeps that average of versions as a model.
        publish_cases: publish scores of single cases, without names.
        policy: of the site; the gate of ``publisher`` has the same.
    """

    def __init__(
        self,
        name: str,
        *,
        observer: Observer,
        publisher: Publisher,
        status: StatusReporter,
        learner: Learner,
        folder: Path,
        local_minutes: float | None = None,
        attendance: Callable[[], Attendance | None] = lambda: None,
        keep_versions: int | None = None,
        alone: Learner | None = None,
        personal: PersonalModel | None = None,
        averages: Mapping[str, Learner] = MappingProxyType({}),
        publish_cases: bool = False,
        policy: PolicyInForce = NO_FILE,
    ) -> None:
        super().__init__(f"site {name!r}", observer, publisher, status)
        self._keep_versions = keep_versions
        self._scoring = Scoring(
            name,
            publisher=publisher,
            status=status,
            learner=learner,
            alone=alone,
            personal=personal,
            averages=averages,
            folder=folder,
            vault=observer.vault,
            cases=CaseSummaries(
                folder, seed=observer.state.charter.schedule.seed, publish_cases=publish_cases
            ),
            charter=self._charter_in_force,
            policy=policy.policy,
        )
        self.name = name
        self._local_minutes = local_minutes
        self._attendance = attendance
        self._logged_refusals: set[str] = set()
        self._learner = learner
        self._folder = folder
        self._announcement = Announcement(name, publisher, learner, status, policy.policy)
        self._hold = PolicyHold(name, policy)
        self._networks = SiteNetworks(name, publisher.store, learner, folder, vault=observer.vault)
        self._prepared = False
        self._alone = alone
        self._personal = personal
        self._averages = averages

    def rest(self) -> None:
        """Free the memory that only training needs."""
        personal = self._personal.learner if self._personal is not None else None
        for learner in (self._learner, self._alone, personal, *self._averages.values()):
            if learner is not None:
                learner.close()

    def decide(self, state: StudyState) -> SiteAction:
        """See :func:`fedfs.protocol.decide.decide_site`.

        Raises:
            StudyError: this site is not on the roster.
        """
        for key, reason in participation.refusals(state, self.name).items():
            if key not in self._logged_refusals:
                self._logged_refusals.add(key)
                log.warning("the aggregator refused %s: %s", key, reason)
        decide = partial(
            decide_site,
            state,
            self.name,
            prepared=self._prepared,
            alone=self._alone is not None,
            personal=self._personal is not None and self._personal.is_lacking(state, self.name),
        )
        attendance = self._attendance()
        action = decide(attendance=attendance)
        if isinstance(action, actions.Done):
            return action
        wanted = self._hold.wanted(state, attendance)
        return action if wanted is attendance else decide(attendance=wanted)

    def explain_wait(self, action: Wait, state: StudyState) -> tuple[str, str]:
        """Return what is waited for, with what the aggregator has refused of this site."""
        reason = (self._hold.reason or action.reason) + participation.failure_of_aggregator(state)
        for key, why in list(participation.refusals(state, self.name).items())[-1:]:
            reason += f"; the aggregator refused {key}: {why}"
        return reason, ""

    def keys(self, state: StudyState, action: SiteAction) -> tuple[str]:  # noqa: ARG002  see Role
        """Return the key that counts for the newest version."""
        tenures = key_validity.of_site(state.charters, self.name)
        return (key_validity.in_force(tenures, max(state.newest, 0)),)

    def tell_failure(self, error: FedfsError, action: SiteAction, state: StudyState) -> str:
        """Publish a failure record of work on the data, which names no case and no path."""
        step = _step_name(action)
        if not isinstance(error, TrainingError | DatasetError):
            return f"{step}: {super().tell_failure(error, action, state)}"
        kind = getattr(error, "kind", "dataset")
        return publish_failure(
            self._publisher, self.name, state, self._observer.keys, step=step, kind=kind
        )

    def tidy(self, action: SiteAction, state: StudyState) -> None:
        """Delete payloads of own updates to older versions, once there is a newer one."""
        if isinstance(action, actions.Train) and self._keep_versions is not None:
            prune_updates(self._publisher.store, state, self.name, self._keep_versions)

    def act(self, action: SiteAction, state: StudyState) -> str:
        """Carry an action out; see :meth:`fedfs.roles.step.Role.act`.

        Where the site's policy forbids its result, the site pauses instead of ending: others need
        not wait for it then.
        """
        try:
            return self._act(action, state)
        except PolicyError as error:
            return self._hold.refuse(error, state.charter)

    def _act(self, action: SiteAction, state: StudyState) -> str:  # noqa: PLR0911  one for each action
        match action:
            case actions.SayAttendance(attendance):
                self._publisher.publish(attendance)
                return f"told the aggregator: {attendance.status}"
            case actions.PublishFingerprint():
                self._status.say("fingerprint")
                return self._announcement.publish_fingerprint(state.charter)
            case actions.PublishPlan():
                self._status.say("plan")
                return self._announcement.publish_plan(state.charter)
            case actions.Prepare():
                return self._prepare(state)
            case actions.Evaluate(version):
                return self._evaluate(version, state, "pseudo")
            case actions.Train(version):
                return self._train(version, state)
            case actions.Finish(version):
                return self._evaluate(version, state, "full")
            case actions.TrainAlone() | actions.FineTune():
                return self._train_own_model(action, state)
        return self._score_model(action, state)

    def _score_model(self, action: SiteAction, state: StudyState) -> str:
        """Score another model than the last version, or let others score this site's."""
        match action:
            case actions.ScoreAverage(version, variant):
                return self._score_average(version, variant, state)
            case (
                actions.PublishModel()
                | actions.CrossEvaluate()
                | actions.ScoreGiven()
                | actions.ScoreEnsemble()
            ):
                return act_on_shared_models(
                    action,
                    state,
                    scoring=self._scoring,
                    networks=self._networks,
                    learner=self._learner,
                    say=self._status.say,
                )
        raise StudyError(f"A site cannot do {action!r}.")

    def _prepare(self, state: StudyState) -> str:
        plans, fingerprint = self._adopted(state)
        self._status.say("prepare")
        self._learner.prepare(plans, fingerprint, self._status.progress)
        require_announced(self._learner.dataset_facts()["n_cases"], state.n_cases(self.name))
        self._prepared = True
        whose = "its own" if state.charter.mode == ASYM else "the federated"
        return f"adopted {whose} plan, data are preprocessed"

    def _adopted(self, state: StudyState) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return adopted_plan(state, self.name, self._learner, self._status.progress)

    def _evaluate(self, version: int, state: StudyState, variant: str) -> str:
        self._status.say("evaluate" if variant == "pseudo" else "final validation")
        network = self._networks.load(version, state)
        return self._scoring.evaluate(self._task(version, state, network), network.tensors, variant)

    def _score_average(self, version: int, variant: str, state: StudyState) -> str:
        plans, fingerprint = self._adopted(state)
        self._status.say("average")
        tensors, sha256 = self._networks.at_average(version, variant, state)
        task = replace(self._task(version, state), weights_sha256=sha256)
        return self._scoring.score_average(task, tensors, plans, fingerprint, variant=variant)

    def _train_own_model(
        self, action: actions.TrainAlone | actions.FineTune, state: StudyState
    ) -> str:
        plans, fingerprint = self._adopted(state)
        is_personal, is_asym = isinstance(action, actions.FineTune), state.charter.mode == ASYM
        version = action.version if is_personal else 0
        self._status.say("personal model" if is_personal else "local model")
        if is_asym and not is_personal:
            task, tensors = self._task(0, state), self._learner.initial_weights()
        else:
            network = self._networks.load(version, state)
            task, tensors = self._task(version, state, network, is_own=True), network.tensors
        if is_personal:
            is_published = has_scored_personal(state, self.name)
            return self._scoring.fine_tune(
                task, tensors, plans, fingerprint, is_published=is_published
            )
        return self._scoring.train_alone(task, tensors, plans, fingerprint, version=action.version)

    def _train(self, version: int, state: StudyState) -> str:
        network = self._networks.load(version, state)
        task = self._task(version, state, network)
        self._status.say("train")
        result = self._learner.train(task, network.tensors, self._status.progress)
        network.require_frozen(result.tensors)
        charter = self._charter_in_force()
        rules = charter.secure_sums
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "update.safetensors"
            encoding = update_encoding(charter)
            with self._networks.keeping(
                network, state, trained=result.tensors, is_lossless=encoding.lossless
            ) as keep:
                write_update(
                    path,
                    encoding,
                    network.share.shared(result.tensors),
                    network.shared,
                    network.residual,
                    clip_norm=rules.clip_norm if rules is not None else None,
                    keep=keep,
                )
            masked = mask(path, charter, self.name, version)
            ref = self._publisher.payload(
                masked.path,
                lambda sha256: layout.update_payload(self.name, version, sha256),
                sealed_for=for_aggregator(charter, and_site=self.name),
            )
        self._publisher.publish(
            messages.UpdateManifest(
                key=layout.update(self.name, version),
                site=self.name,
                base_version=version,
                base_weights_sha256=network.weights_sha256,
                payload=ref,
                encoding=charter.encoding.name,
                n_training_cases=result.n_training_cases,
                n_epochs=result.n_epochs,
                n_iterations=result.n_iterations,
                n_planned_iterations=task.n_epochs * task.iterations_per_epoch,
                metrics=dict(result.metrics),
                seconds=dict(result.seconds),
                seed=masked.seed,
                seed_for=masked.seed_for,
            )
        )
        return f"published the update from version {version} ({result.n_iterations} iterations)"

    def _charter_in_force(self) -> messages.TrackCharter:
        """Return the charter; with secure sums of now, as there may be another helper."""
        charter = self._observer.state.charter
        return charter if charter.secure_sums is None else self._observer.refresh().charter

    def _task(
        self,
        version: int,
        state: StudyState,
        network: SiteNetwork | None = None,
        *,
        is_own: bool = False,
    ) -> RoundTask:
        """Return a round's training of a network, or that of a model of the site's own."""
        return round_task(
            version,
            state,
            private=frozenset() if network is None or is_own else network.private,
            frozen=frozenset(network.frozen if network else ()),
            shared={} if network is None or is_own else network.share.by_own_name,
            local_minutes=self._local_minutes,
        )


def _step_name(action: SiteAction) -> str:
    """Return an action as a step of a status: ``publish fingerprint``."""
    return re.sub(r"\B(?=[A-Z])", " ", type(action).__name__).lower()
