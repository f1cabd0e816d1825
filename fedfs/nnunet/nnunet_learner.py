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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from fedfs.nnunet.score.cross_evaluation import score_ensemble, score_network, score_other
from fedfs.nnunet.score.finish import FinalModel
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.system.call import nnunet_call
from fedfs.nnunet.system.environment import limit_pools
from fedfs.nnunet.system.output import Captured
from fedfs.nnunet.train import model_folders, parallel
from fedfs.nnunet.train.rounds import Rounds
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
        self._rounds: Rounds | None = None
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
        self.close()
        if found:  # found out now, before anything is published
            self._settle_folds()
        return result

    def _settle_folds(self) -> None:
        """Settle which of the cases that can be used are validated."""
        settings, left_out = self._settings, self._broken.left_out()
        folds.settle(classes.fold_of(settings.fold), self._raw(), settings.paths, left_out)

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
        self._settle_folds()
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
            self._settle_folds()
        local = settings.paths.preprocessed / dataset.name / _FINGERPRINT
        if not local.exists():  # nnU-Net's trainer copies it
            files.write_json(local, fingerprint)
        if broken or adopted != self._plans:
            self.close()
        self._plans, self._federated_fingerprint = adopted, fingerprint

    def prepared(self) -> tuple[LearnerSettings, dict[str, Any], RawDataset]:
        """Return settings, the adopted plan, and the cases that this site takes part with."""
        return self._settings, self._adopted(), self._raw()

    def take_over(self, plans: Mapping[str, Any]) -> None:
        """Work with plans that another process of this site has adopted and preprocessed for."""
        self._plans = dict(plans)

    def evaluate(
        self, task: RoundTask, tensors: Tensors, on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        with self._nnunet() as output:
            session = self._begun().open(task)
            session.load(tensors)
            return pseudo_dice.pseudo_dice(session, output.outside(on_progress))

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """See :class:`fedfs.learner.Learner`."""
        if self._settings.host.num_gpus > 1:
            self.close()  # its memory is the processes', and they write the next checkpoint
            return parallel.train(self._settings, self._adopted(), task, tensors, on_progress)
        with self._nnunet() as output:
            return self._begun().train(task, tensors, output.outside(on_progress))

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
            session, _ = self._begun().recover(task)
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

    def score_ensemble(
        self, members: Mapping[str, Path], on_progress: OnProgress
    ) -> EvaluationResult:
        """See :class:`fedfs.learner.Learner`."""
        self.close()
        cases = self._final_model().validated_cases()
        if not cases:
            return EvaluationResult.unscored()
        return score_ensemble(
            members,
            plans=self._adopted(),
            dataset=self._raw(),
            cases=cases,
            settings=self._settings,
            on_progress=on_progress,
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
        rounds, self._rounds = self._rounds, None
        if rounds is not None:
            rounds.close()

    @contextmanager
    def _nnunet(self) -> Iterator[Captured]:
        """Set nnU-Net's variables, capture its output and translate its errors."""
        try:
            with nnunet_call(self._settings.paths, log) as output:
                yield output
        except FedfsError:
            self.close()
            raise

    def _raw(self) -> RawDataset:
        if self._dataset is None:
            self._dataset = self._broken.usable()
        return self._dataset

    def _adopted(self) -> dict[str, Any]:
        if self._plans is None:
            raise SetupError("The plan has not been adopted yet.", hint="call prepare() first")
        return self._plans

    def _begun(self) -> Rounds:
        """Return the rounds in this process, with a trainer if there is one."""
        if self._rounds is None:
            self._rounds = Rounds(self._settings, self._adopted(), self._raw(), clock=self._clock)
        return self._rounds
