"""A site's learner: nnU-Net on the site's own data, round by round.

Rules:
 * Every method may be killed and called again; see :mod:`fedfs.nnunet.data.preprocess` for the data
   and :mod:`fedfs.nnunet.train.checkpoints` for the training.
 * What nnU-Net prints goes to the log. What it raises leaves as a
   :class:`~fedfs.errors.TrainingError` that says of which kind the failure is.
 * All calls come from one thread, which outlives the learner: nnU-Net's workers end with it.
 * The result is an ordinary nnU-Net model folder under ``nnUNet_results``.
"""

import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.aggregation.fingerprints import to_nnunet
from fedfs.errors import FedfsError, SetupError
from fedfs.learner import (
    EvaluationResult,
    GivenNetwork,
    OnProgress,
    OwnPlan,
    Progress,
    RoundTask,
    SiteFingerprint,
    Tensors,
    TrainResult,
)
from fedfs.nnunet.allowed import allowlist, classes
from fedfs.nnunet.data import fingerprint as fingerprints
from fedfs.nnunet.data import folds, preprocess
from fedfs.nnunet.data.broken_cases import BrokenCases
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.plan.own_plan import OwnPlanner
from fedfs.nnunet.score import pseudo_dice
from fedfs.nnunet.score.cross_evaluation import score_network, score_other
from fedfs.nnunet.score.finish import FinalModel
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import limit_pools, set_variables
from fedfs.nnunet.system.failures import translate
from fedfs.nnunet.system.output import Captured, capture_output
from fedfs.nnunet.system.workers import single_process_pools_are_threads
from fedfs.nnunet.train import model_folders, parallel
from fedfs.nnunet.train.checkpoints import CheckpointStore, RoundProgress
from fedfs.nnunet.train.session import Session
from fedfs.tensors.canonical import weights_sha256

__all__ = ["LearnerSettings", "NnUNetLearner"]

log = logging.getLogger(__name__)

_FINGERPRINT = "dataset_fingerprint.json"


class NnUNetLearner:
    """Implements :class:`fedfs.learner.Learner` with nnU-Net's own trainer."""

    def __init__(
        self, settings: LearnerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._plans: dict[str, Any] | None = None
        self._federated_fingerprint: Mapping[str, Any] = {}
        self._broken = BrokenCases(settings)
        self._dataset: RawDataset | None = None
        self._session: Session | None = None
        self._trained: RoundProgress | None = None
        limit_pools(settings.host.num_processes)

    def dataset_facts(self) -> Mapping[str, Any]:
        """See :class:`fedfs.learner.Learner`."""
        return self._raw().facts()

    def patients(self) -> Mapping[str, str]:
        """See :class:`fedfs.learner.Learner`."""
        return self._raw().patients

    def versions(self) -> Mapping[str, str]:
        """See :class:`fedfs.learner.Learner`."""
        return classes.versions()

    def fingerprint(self, on_progress: OnProgress) -> SiteFingerprint:
        """See :class:`fedfs.learner.Learner`.

        The local fingerprint is also written where nnU-Net keeps it, unless there is one.
        """
        return self._measure(on_progress, is_published=False)

    def _measure(self, on_progress: OnProgress, *, is_published: bool) -> SiteFingerprint:
        settings = self._settings
        with self._nnunet():
            classes.trainer_class(settings.trainer, settings.host.allowed_trainers)
        result = self.examine(on_progress, is_published=is_published)
        target = settings.paths.preprocessed / self._raw().name / _FINGERPRINT
        if not target.exists() and all(channel.n_cases for channel in result.channels):
            files.write_json(target, to_nnunet(result))
        return result

    def examine(self, on_progress: OnProgress, *, is_published: bool = False) -> SiteFingerprint:
        """Read every case, find out which this site goes on without, and measure the others.

        Once the study knows the site's data, cases that were added since are passed over.

        Raises:
            TrainingError: a case is broken, and this site does not go on then.
            DatasetError: no case can be used.
            SetupError: those that can are not those of ``splits_final.json``.
        """
        settings = self._settings
        dataset = self._broken.all_cases(is_published=is_published)
        found = self._broken.incomplete(dataset)
        with self._nnunet() as output:
            result = fingerprints.extract(
                dataset.without(found),
                num_processes=settings.host.num_processes,
                on_progress=output.outside(on_progress),
                on_broken=found.__setitem__ if settings.host.skip_broken else None,
            )
        self._broken.keep(found, dataset)
        self._dataset = None
        if found:  # found out now, before anything is published
            folds.settle(
                classes.fold_of(settings.fold), self._raw(), settings.paths, self._broken.left_out()
            )
        return result

    def plan(self, on_progress: OnProgress, *, is_published: bool = False) -> OwnPlan:
        """See :class:`fedfs.learner.Learner`."""
        planner = OwnPlanner(self._settings, self._broken.measured(is_published=is_published))
        kept = planner.kept()
        if kept is not None:
            return kept
        if planner.fingerprint() is None:
            measured = self._measure(on_progress, is_published=is_published)
            planner = OwnPlanner(self._settings, self._broken.measured(is_published=True))
            planner.keep_fingerprint(measured)
        with self._nnunet():
            return planner.make()

    def initial_weights(self) -> Tensors:
        """See :class:`fedfs.learner.Learner`."""
        planner = OwnPlanner(self._settings, self._broken.measured(is_published=True))
        plan = planner.kept()
        if plan is None:
            raise SetupError("This site has not planned yet.", hint="call plan() first")
        with self._nnunet():
            return planner.initial(plan)

    def prepare(
        self, plans: Mapping[str, Any], fingerprint: Mapping[str, Any], on_progress: OnProgress
    ) -> None:
        """See :class:`fedfs.learner.Learner`."""
        # Processes on several tracks of a study share the data.
        with files.exclusive(self._settings.preparing_lock):
            self._prepare(plans, fingerprint, on_progress)

    def _prepare(
        self, plans: Mapping[str, Any], fingerprint: Mapping[str, Any], on_progress: OnProgress
    ) -> None:
        settings, dataset = self._settings, self._raw()
        allowlist.check_plans(plans, settings.configuration)
        fold = classes.fold_of(settings.fold)
        folds.settle(fold, dataset, settings.paths, self._broken.left_out())
        broken = self._broken.incomplete(self._broken.known())
        with self._nnunet() as output:
            classes.trainer_class(settings.trainer, settings.host.allowed_trainers)
            adopted = preprocess.adopt(plans, dataset, fingerprints.reader_name(dataset))
            preprocess.check_previous_stage(adopted, dataset, settings)
            preprocess.write_plans(adopted, dataset, settings.paths)
            model_folders.claim(self._model_folder(adopted), adopted, settings)
            for configuration in (settings.configuration, *settings.next_stages):
                preprocess.preprocess(
                    adopted,
                    configuration,
                    dataset,
                    settings.paths,
                    num_processes=settings.host.num_processes,
                    on_progress=output.outside(on_progress),
                    on_broken=broken.__setitem__ if settings.host.skip_broken else None,
                )
        if broken:
            self._broken.add(broken)
            self._dataset = None
            folds.settle(fold, self._raw(), settings.paths, self._broken.left_out())
        local = settings.paths.preprocessed / dataset.name / _FINGERPRINT
        if not local.exists():  # nnU-Net's trainer copies it
            files.write_json(local, fingerprint)
        if adopted != self._plans:
            self.close()
        self._plans, self._federated_fingerprint = adopted, fingerprint

    def take_over(self, plans: Mapping[str, Any]) -> None:
        """Work with plans that another process of this site has adopted and preprocessed for."""
        self._plans = dict(plans)

    def evaluate(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        with self._nnunet() as output:
            session = self._open(task)
            session.load(tensors)
            return pseudo_dice.pseudo_dice(session, output.outside(on_progress))

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """See :class:`fedfs.learner.Learner`."""
        if self._settings.host.num_gpus > 1:
            self.close()  # its memory is the processes', and they write the next checkpoint
            return parallel.train(self._settings, self._adopted(), task, tensors, on_progress)
        with self._nnunet() as output:
            session, progress = self._continue(task, tensors)
            saved = self._clock()
            seconds = {"training": 0.0, "validation": 0.0, "checkpoint": 0.0, **progress.seconds}
            while not _is_over(progress, task):
                left_s = math.inf if task.max_seconds is None else task.max_seconds
                n_iterations, spent = session.train_epoch(
                    output.outside(on_progress),
                    task=task,
                    until_s=self._clock() + left_s - seconds["training"],
                )
                for phase, value in spent.items():
                    seconds[phase] += value
                progress = replace(
                    progress,
                    epochs_done=progress.epochs_done + 1,
                    n_iterations=progress.n_iterations + n_iterations,
                    metrics=session.metrics(),
                    seconds=dict(seconds),
                )
                is_due = self._clock() - saved >= self._settings.checkpoint_interval_s
                if is_due or _is_over(progress, task):
                    session.tensors()  # never keep what is not finite
                    began = self._clock()
                    if session.is_first:
                        progress = self._store().save(progress, session.save)
                    saved = self._clock()
                    seconds["checkpoint"] += saved - began
            self._trained = progress
            return TrainResult(
                tensors=session.tensors(),
                n_training_cases=session.n_training_cases,
                n_epochs=progress.n_iterations // task.iterations_per_epoch,
                n_iterations=progress.n_iterations,
                metrics=progress.metrics,
                seconds=seconds,
            )

    def finish(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        model = self._final_model()
        with self._nnunet() as output:
            weights = task.weights_sha256 or weights_sha256(tensors)
            finished = model.already(weights)
            if finished is not None:
                return finished
            session, _ = self._recover(task)
            session.load(tensors)
            session.start_at(task.total_epochs)
            try:
                return model.make(session, weights, output.outside(on_progress))
            finally:
                self.close()  # nnU-Net has shut down the data loaders

    def score(
        self, plans: Mapping[str, Any], tensors: Path, on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        self.close()  # its memory is the predictor's
        cases = self._final_model().validated_cases()
        if not cases:
            return EvaluationResult.unscored()
        on_progress(Progress("predict", 0, 0, "case"))
        return score_other(
            plans,
            tensors,
            dataset=self._raw(),
            cases=cases,
            settings=self._settings,
            own_plans=self._adopted(),
        )

    def score_given(self, network: GivenNetwork, on_progress: OnProgress) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        self.close()
        self._broken.keep_to_these_cases()
        dataset = self._raw()
        on_progress(Progress("predict", 0, 0, "case"))
        allowlist.check_plans(network.reference, self._settings.configuration)
        return score_network(
            network,
            dataset=dataset,
            cases=[case.name for case in dataset.cases],
            settings=self._settings,
            own_plans=network.reference,
        )

    def _final_model(self) -> FinalModel:
        ending = str(self._raw().dataset_json["file_ending"])
        return FinalModel(
            self._settings, fingerprint=self._federated_fingerprint, file_ending=ending
        )

    def model_folder(self) -> Path:
        """Return nnU-Net's folder of this model."""
        return self._model_folder(self._adopted())

    def _model_folder(self, plans: Mapping[str, Any]) -> Path:
        settings = self._settings
        name = f"{settings.trainer}__{plans['plans_name']}__{settings.configuration}"
        return settings.paths.results / self._raw().name / name

    def close(self) -> None:
        """See :class:`fedfs.learner.Learner`."""
        session, self._session, self._trained = self._session, None, None
        if session is not None:
            session.close()

    @contextmanager
    def _nnunet(self) -> Iterator[Captured]:
        """Set nnU-Net's variables, capture its output and translate its errors."""
        with (
            set_variables(self._settings.paths.variables()),
            single_process_pools_are_threads(),
            capture_output(log) as output,
        ):
            try:
                yield output
            except FedfsError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise translate(error) from error

    def _raw(self) -> RawDataset:
        if self._dataset is None:
            self._dataset = self._broken.usable()
        return self._dataset

    def _adopted(self) -> dict[str, Any]:
        if self._plans is None:
            raise SetupError("The plan has not been adopted yet.", hint="call prepare() first")
        return self._plans

    def _open(self, task: RoundTask) -> Session:
        plans = self._adopted()
        if self._session is not None and not self._session.serves(task):
            self.close()
        if self._session is None:
            self._session = Session(
                self._settings, plans, self._raw(), task=task, clock=self._clock
            )
        return self._session

    def _store(self) -> CheckpointStore:
        settings = self._settings
        identity = files.json_sha256(
            [self._adopted(), settings.trainer, settings.configuration, settings.fold]
        )
        return CheckpointStore(settings.state_dir, identity)

    def _continue(self, task: RoundTask, tensors: Tensors) -> tuple[Session, RoundProgress]:
        """Bring a trainer to where the round stands; return both."""
        session, kept = self._recover(task)
        if kept is not None and kept.belongs_to(task):
            progress = kept
            log.info(
                "round of version %d continued after epoch %d", task.version, progress.epochs_done
            )
        else:
            progress = self._store().fresh(task)
            session.load(tensors)
        session.start_at(task.first_epoch + progress.epochs_done)
        session.set_proximal_base(tensors, task)
        return session, progress

    def _recover(self, task: RoundTask) -> tuple[Session, RoundProgress | None]:
        """Return a trainer as the last checkpoint left it, and how far that is."""
        session, kept = self._open(task), self._store().load()
        if kept is None:
            return session, None
        progress, checkpoint = kept
        if progress == self._trained and not progress.belongs_to(task):
            return session, progress  # this very trainer wrote it
        try:
            session.restore(checkpoint)
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            log.warning("%s is not used: it cannot be loaded (%s)", checkpoint, error)
            self.close()
            return self._open(task), None
        return session, progress


def _is_over(progress: RoundProgress, task: RoundTask) -> bool:
    """Return True if a round has had its epochs, or its seconds of training in all processes."""
    if progress.epochs_done >= task.n_epochs:
        return True
    if task.max_seconds is None or progress.n_iterations == 0:
        return False
    return progress.seconds.get("training", 0.0) >= task.max_seconds
