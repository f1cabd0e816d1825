"""Scores of models on a site's own validation cases, and their publication.

Rules:
 * What leaves of single cases is decided in :mod:`fedfs.roles.site.case_summaries`.
 * What can be compared is scored alike: nnU-Net's full validation of the last version, of a model
   trained here alone, and whole validation cases predicted by other sites' models.
 * A model of another site that cannot be used counts as one without scores, and stops nobody.
 * With secure scores, what may leave is masked; what the site's policy keeps here goes to the gate
   as it is, which suppresses it.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import RejectedError, StudyError
from fedfs.exchange.ensemble_member import write_member
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.learner import EvaluationResult, Learner, RoundTask, Tensors
from fedfs.nnunet.plan.published import without_extremes
from fedfs.protocol import layout
from fedfs.protocol.decide_evaluation import VERSION
from fedfs.protocol.messages import Charter, EvaluationMessage, SiteModel, TrackCharter
from fedfs.protocol.score_rules import is_totalled
from fedfs.protocol.state import StudyState
from fedfs.roles.site.case_summaries import CaseSummaries
from fedfs.roles.site.given_network import fetch_given
from fedfs.roles.site.masked_scores import mask_scores
from fedfs.roles.site.network import SiteNetwork
from fedfs.roles.site.own_model import PersonalModel, keep_model, stretched, train_to_the_end
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.tensors.canonical import write_safetensors
from fedfs.trust.recipients import Vault, for_aggregator, for_readers

log = logging.getLogger(__name__)

_NAMES = {"average": "mean", "ema": "exponential average"}


class Scoring:
    """Scores models at one site.

    Args:
        site: the site's name.
        publisher: signs with the site's key.
        status: takes the progress.
        learner: knows the site's data.
        alone: trains a model of this site's data alone; None if nobody wants one.
        personal: fine-tunes the last version for this site; likewise.
        averages: variant -> learner that keeps that average of versions as a model.
        folder: fedfs's own folder for this site.
        vault: decrypts other sites' models, where they are encrypted.
        cases: says what is published of single cases.
        charter: returns the charter in force, also of a helper who came a moment ago.
        policy: of the site.
    """

    def __init__(
        self,
        site: str,
        *,
        publisher: Publisher,
        status: StatusReporter,
        learner: Learner,
        alone: Learner | None,
        personal: PersonalModel | None,
        averages: Mapping[str, Learner],
        folder: Path,
        vault: Vault | None,
        cases: CaseSummaries,
        charter: Callable[[], TrackCharter],
        policy: SitePolicy,
    ) -> None:
        self._site = site
        self._publisher = publisher
        self._status = status
        self._learner = learner
        self._alone = alone
        self._personal = personal
        self._averages = averages
        self._folder = folder
        self._vault = vault
        self._cases = cases
        self._charter = charter
        self._policy = policy

    def evaluate(self, task: RoundTask, tensors: Tensors, variant: str) -> str:
        """Score a version (``pseudo``), or keep it as the final model (``full``); say so."""
        if variant == "pseudo":
            result = self._learner.evaluate(task, tensors, self._status.progress)
        else:
            result = self._learner.finish(task, tensors, self._status.progress)
        self._publish(task.version, variant, result)
        if variant == "pseudo":
            return f"evaluated version {task.version}: {_dice(result, 'pseudo')}"
        return f"validated in full version {task.version}: {_dice(result)}"

    def score_average(
        self,
        task: RoundTask,
        tensors: Tensors,
        plans: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        *,
        variant: str,
    ) -> str:
        """Keep an average of versions as a model of its own, and validate it in full.

        Args:
            task: of the last version, with the hash of ``tensors``.
            tensors: of this site's network.
            plans: that this site trains with.
            fingerprint: that they were made from.
            variant: ``average`` or ``ema``.
        """
        if variant not in self._averages:
            raise StudyError(
                f"This process keeps no model of the kind {variant!r}.",
                hint="the charter has changed since it began: start fedfs site run again",
            )
        learner = self._averages[variant]
        result = keep_model(learner, plans, fingerprint, task, tensors, self._status.progress)
        learner.close()
        self._publish(task.version, variant, result)
        return f"validated in full the {_NAMES[variant]} of versions: {_dice(result)}"

    def publish_model(self, network: SiteNetwork, charter: Charter) -> str:
        """Let the other sites score this site's whole network (mode ``asym``)."""
        plan = self._learner.plan(self._status.progress, is_published=True)
        self._publish_model(
            lambda path: write_safetensors(path, network.tensors),
            network.version,
            {**without_extremes(plan.plans), "dataset_name": charter.dataset.name},
            charter,
        )
        return f"published this site's model of version {network.version} for others to score"

    def score_other(self, model: SiteModel, version: int) -> str:
        """Predict own validation cases with the model of another site."""
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                path = self._fetch(model, Path(folder))
                result = self._learner.score(model.plans, path, self._status.progress)
        except RejectedError as error:
            log.warning("the model of %s cannot be scored: %s", model.site, error.reason)
            result = EvaluationResult.unscored()
        self._publish(version, layout.score_of(model.site), result)
        return f"scored the model of {model.site}: {_dice(result)}"

    def publish_member(self, state: StudyState) -> str:
        """Publish the model that this site's update says, as a member of the ensemble."""
        self._publish_model(
            lambda path: write_member(self._site, state, self._publisher.store, self._vault, path),
            state.charter.schedule.rounds,
            {},
            state.charter,
        )
        return "published this site's model of the round for the ensemble"

    def score_ensemble(self, models: Sequence[SiteModel], version: int) -> str:
        """Predict own validation cases with the ensemble of these models."""
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                members = {model.site: self._fetch(model, Path(folder)) for model in models}
                result = self._learner.score_ensemble(members, self._status.progress)
        except RejectedError as error:
            log.warning("the ensemble cannot be scored: %s", error.reason)
            result = EvaluationResult.unscored()
        self._publish(version, "ensemble", result)
        names = ", ".join(model.site for model in models)
        return f"scored the ensemble of {names}: {_dice(result)}"

    def score_given(self, name: str, charter: Charter) -> str:
        """Predict all own cases with a model that the charter gives."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            network = fetch_given(name, charter, self._publisher.store, Path(folder), self._vault)
            try:
                result = self._learner.score_given(network, self._status.progress)
            except RejectedError as error:
                log.warning("the model %s cannot be scored: %s", name, error.reason)
                result = EvaluationResult.unscored()
        self._publish(VERSION, layout.score_of(name), result)
        return f"scored {name} on {result.n_cases} cases: {_dice(result)}"

    def train_alone(
        self,
        task: RoundTask,
        tensors: Tensors,
        plans: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        *,
        version: int,
    ) -> str:
        """Train as the federation did up to ``version``, from the same weights, but alone.

        Where the federated model is fine-tuned here too, it is for as long as both together.

        Args:
            task: the first round's.
            tensors: initial weights of this site's network.
            plans: that this site trains with.
            fingerprint: that they were made from.
            version: the last one.
        """
        if self._alone is None:
            raise StudyError("This process was not told to train alone.")
        n_epochs = task.total_epochs
        if self._personal is not None:
            n_epochs += self._personal.tuning.n_epochs(task.total_epochs)
        result = train_to_the_end(
            self._alone, plans, fingerprint, stretched(task, n_epochs), tensors,
            self._status.progress,
        )  # fmt: skip
        self._publish(version, "local", result, budget=n_epochs / task.total_epochs)
        return f"trained and validated a model of this site's data alone: {_dice(result)}"

    def fine_tune(
        self,
        task: RoundTask,
        tensors: Tensors,
        plans: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        *,
        is_published: bool,
    ) -> str:
        """Make the personal model of the last version; publish its scores if the site wants it.

        Args:
            task: of the last version.
            tensors: its weights, at this site.
            plans: that this site trains with.
            fingerprint: that they were made from.
            is_published: whether scores of such a model are; they are not replaced.
        """
        if self._personal is None:
            raise StudyError("This process was not told to make a personal model.")
        result = self._personal.make(plans, fingerprint, task, tensors, self._status.progress)
        text = f"fine-tuned version {task.version} on this site's data: {_dice(result)}"
        if not self._personal.publishes:
            self._cases.keep(task.version, "personal", result, is_published=False)
            return text
        if is_published:
            return f"{text}; the scores that are published are of the model before"
        n_epochs = self._personal.tuning.n_epochs(task.total_epochs)
        self._publish(task.version, "personal", result, budget=n_epochs / task.total_epochs)
        return f"{text}; its scores are published"

    def _publish_model(
        self,
        write: Callable[[Path], object],
        version: int,
        plans: Mapping[str, Any],
        charter: Charter,
    ) -> None:
        """Publish the tensors that are written to a file as this site's model of a version."""
        readers = for_readers(charter)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "model.safetensors"
            write(path)
            ref = self._publisher.payload(
                path,
                lambda sha256: layout.site_model_payload(self._site, sha256),
                sealed_for=readers,
            )
        key, site = layout.site_model(self._site), self._site
        self._publisher.publish(
            SiteModel(key=key, site=site, version=version, payload=ref, plans=plans),
            sealed_for=readers,
        )

    def _fetch(self, model: SiteModel, folder: Path) -> Path:
        """Return a local file of another site's tensors."""
        return fetch_payload(
            self._publisher.store,
            model.payload,
            folder,
            max_bytes=MAX_MODEL_BYTES,
            vault=self._vault,
        )

    def _publish(
        self, version: int, variant: str, result: EvaluationResult, *, budget: float = 1.0
    ) -> None:
        of_cases = self._cases.fields(version, variant, result, self._learner.patients())
        message = EvaluationMessage(
            key=layout.evaluation(self._site, version, variant),
            site=self._site,
            version=version,
            variant=variant,
            n_cases=result.n_cases,
            mean_dice=result.mean_dice,
            classes=result.classes,
            loss=result.loss,
            seconds=result.seconds,
            budget=budget,
            **of_cases,
        )
        charter = self._charter()
        if (
            charter.secure_scores
            and is_totalled(charter, message)
            and self._policy.has_enough_scored(result.n_cases)
        ):
            masked = mask_scores(message, result, charter)
            self._publisher.publish(masked, sealed_for=for_aggregator(charter))
            return
        self._publisher.publish(message)


def _dice(result: EvaluationResult, kind: str = "mean") -> str:
    if not result.n_cases:
        return "no scores"
    return "no class occurs" if (mean := result.mean_dice) is None else f"{kind} Dice {mean:.4f}"
