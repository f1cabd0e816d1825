"""Membership test of a site's updates and of global versions, against the site's own cases.

Rules:
 * The cases that are trained on are compared with those that the fold keeps back: cases of the same
   site, divided by chance. Of a patient who has cases of both kinds, those kept back do not count.
 * Nothing is published: the store is only read.
 * What was measured is kept in the folder of the track. Stopped at any moment and given again, the
   test goes on with the next model.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedfs.aggregation.membership import Fits, fpr_bound, halves
from fedfs.errors import StudyError, UserError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_tracks
from fedfs.learner import OnProgress, RoundTask, Tensors
from fedfs.nnunet.membership.case_fits import CaseFits
from fedfs.nnunet.membership.inversion import Inversion, invert
from fedfs.nnunet.membership.references import train_reference
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import layout
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.membership.kept_fits import KeptFits
from fedfs.roles.site.membership.models import TRAINED, UPDATE, VERSION, SiteModels, Target
from fedfs.roles.site.membership.result import MembershipAudit, attack_all
from fedfs.roles.site.network import adopted_plan
from fedfs.roles.site.own_model import stretched
from fedfs.roles.site.round_task import round_task
from fedfs.roles.site.training import site_parts
from fedfs.store import open_store
from fedfs.trust.recipients import Vault

FOLDER = "membership"
"""Name of the folder, in that of a track, for what this test keeps."""

_N_COMPARED = 20
"""Cases that the patch of an inversion is compared with, at most."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of a membership test.

    Attributes:
        versions: to test, each with the update that was trained from it; empty for all.
        n_references: models to train for comparison, each on half of the site's cases; even, as
            each has one of the other half beside it.
        inversion: also search a patch of a case by its gradient.
    """

    versions: Sequence[int] = ()
    n_references: int = 0
    inversion: bool = False

    def __post_init__(self) -> None:
        if self.n_references < 0 or self.n_references % 2:
            raise UserError(
                f"{self.n_references} references cannot be in pairs.",
                hint="give an even number: each case is in one of each pair",
            )


DEFAULT_AUDIT = AuditOptions()


def audit_membership(
    config: SiteConfig,
    options: AuditOptions = DEFAULT_AUDIT,
    on_progress: OnProgress = lambda _: None,
) -> list[MembershipAudit]:
    """Test what a site's updates and the global versions tell about its cases; at the site.

    Args:
        config: of the site, with the tracks to test.
        options: of the test.
        on_progress: progress callback.

    Raises:
        StudyError: there is no version yet, or no case was kept back.
        FedfsError: the study, the store or this host's data are not as they should be.
    """
    observers = open_tracks(
        open_store(config.store),
        only=config.tracks,
        site=config.site,
        skip=layout.STATUS_KINDS,
        vault=Vault(config.home),
    )
    return [
        _Track(config, options, name, observer, on_progress).audit()
        for name, observer in observers.items()
    ]


class _Track:
    """The test on one track."""

    def __init__(
        self,
        config: SiteConfig,
        options: AuditOptions,
        name: str,
        observer: Observer,
        on_progress: OnProgress,
    ) -> None:
        self._config, self._options, self._name = config, options, name
        self._observer, self._state = observer, observer.state
        self._on_progress = on_progress
        self._notes: list[str] = []

    def audit(self) -> MembershipAudit:
        self._check()
        store, charter = self._observer.store, self._state.charter
        learner, folder = site_parts(self._config, store, charter, from_environment(os.environ))
        own = folder / FOLDER
        own.mkdir(exist_ok=True)
        self._prepare(learner)
        meter = CaseFits(*learner.prepared(), results=own / "results")
        patients = learner.patients()
        trained, others = self._cases(meter, patients)
        cases = (*trained, *others)
        with tempfile.TemporaryDirectory(dir=own) as scratch:
            models = SiteModels(self._config.site, self._observer, learner, folder, Path(scratch))
            self._note(models)
            targets = [t for t in models.targets() if _is_needed(t, self._options.versions)]
            total = (len(targets) + self._options.n_references // 2) * len(cases)
            kept = KeptFits(meter, own, total, self._on_progress)
            fits = self._fits(models, targets, kept, cases)
            references = self._references(
                models, learner, kept, cases, own, is_cascaded=meter.trainer.is_cascaded
            )
            inversions = self._inversions(models, meter, trained[0], others)
        learner.close()
        return MembershipAudit(
            track=self._name,
            n_trained=len(trained),
            n_others=len(others),
            n_references=len(references),
            fpr_bound=fpr_bound(len(others)),
            models=attack_all(
                fits,
                self._options.versions,
                trained=set(trained),
                references=references,
                patients=patients,
                seed=charter.seed,
            ),
            inversions=inversions,
            notes=self._notes,
        )

    def _check(self) -> None:
        state = self._state
        if state.charter.evaluates:
            raise StudyError(
                "This study trains nothing, and tells nothing of training cases.",
                hint="scores of cases: fedfs site scores",
            )
        if state.plan is None or not state.models:
            raise StudyError(
                f"Track {self._name} has no version yet.", hint="test again after the first round"
            )
        if unknown := sorted(set(self._options.versions) - set(state.models)):
            raise StudyError(
                f"There is no version {unknown[0]}.", hint=f"the newest is {state.newest}"
            )

    def _prepare(self, learner: NnUNetLearner) -> None:
        """Adopt the plan that the site trains with; its cases are preprocessed already."""
        plans, fingerprint = adopted_plan(
            self._state, self._config.site, learner, self._on_progress
        )
        learner.prepare(plans, fingerprint, self._on_progress)

    def _cases(
        self, meter: CaseFits, patients: Mapping[str, str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Return the cases that are trained on, and those that are kept back."""
        trained = meter.training
        kept = [case for case in meter.validation if case not in set(trained)]
        known = {patients[case] for case in trained if case in patients}
        others = [case for case in kept if patients.get(case) not in known]
        if len(others) < len(kept):
            self._notes.append(
                f"{len(kept) - len(others)} cases that were kept back do not count: other cases of "
                "the same patients were trained on."
            )
        if not others:
            raise StudyError(
                f"Site {self._config.site!r} keeps no case back on track {self._name}, so that "
                "there is nothing to compare its training cases with.",
                hint="a fold other than all, of a site with several cases, keeps some back",
            )
        return trained, others

    def _note(self, models: SiteModels) -> None:
        if self._state.charter.secure_sums is not None:
            self._notes.append(
                "The sums of this study are secure: nobody reads an update, and none is tested."
            )
        if n_private := len(models.network.private):
            self._notes.append(
                f"{n_private} tensors of the site's own never leave it; here all models have them "
                "as they are now, which others do not."
            )

    def _fits(
        self,
        models: SiteModels,
        targets: Sequence[Target],
        kept: KeptFits,
        cases: Sequence[str],
    ) -> dict[Target, Fits]:
        """Return how well the models fit the cases."""
        found = {}
        for target in targets:
            tensors = partial(models.tensors, target)
            try:
                found[target] = kept.of(target.name, target.sha256, cases, tensors)
            except StudyError as error:
                self._notes.append(str(error))
                kept.skip(len(cases))
        return found

    def _references(
        self,
        models: SiteModels,
        learner: NnUNetLearner,
        kept: KeptFits,
        cases: Sequence[str],
        folder: Path,
        *,
        is_cascaded: bool,
    ) -> list[Fits]:
        """Return how well models fit the cases that they were not trained on."""
        n_references = self._options.n_references
        if not n_references:
            return []
        if models.network.private or is_cascaded:
            self._notes.append(
                "No models were trained for comparison: they would need tensors, or segmentations "
                "of a first stage, that were made of all of this site's cases."
            )
            kept.skip(n_references // 2 * len(cases))
            return []
        schedule = self._state.charter.schedule
        first = round_task(
            0, self._state, private=frozenset(), frozen=frozenset(models.network.frozen),
            shared={}, local_minutes=None,
        )  # fmt: skip
        task = stretched(first, schedule.rounds * schedule.local_epochs)
        begin = models.tensors(Target(0, VERSION))
        settings, plans, dataset = learner.prepared()
        found = []
        for number, half in enumerate(
            halves(cases, learner.patients(), n_references, self._state.charter.seed)
        ):
            name = f"reference-{number:02d}"

            def train(half: Sequence[str] = half, name: str = name) -> Tensors:
                return train_reference(
                    settings, plans, dataset, cases=half, task=task, tensors=begin,
                    folder=folder / name, on_progress=self._on_progress,
                )  # fmt: skip

            others = [case for case in cases if case not in half]
            found.append(kept.of(name, _identity(half, task), others, train))
            shutil.rmtree(folder / name, ignore_errors=True)
        return found

    def _inversions(
        self, models: SiteModels, meter: CaseFits, case: str, others: Sequence[str]
    ) -> list[Inversion]:
        """Search a patch of the first training case by its gradient at two versions."""
        if not self._options.inversion:
            return []
        found = []
        for version in sorted({0, self._state.newest}):
            meter.load(models.tensors(Target(version, VERSION)))
            found.append(
                invert(
                    meter, case, others[:_N_COMPARED], version=version,
                    on_progress=self._on_progress,
                )
            )  # fmt: skip
        return found


def _is_needed(target: Target, versions: Sequence[int]) -> bool:
    """Return whether a model is to be tested, or another is compared with it."""
    wanted = set(versions)
    if not wanted or target.kind not in (VERSION, UPDATE, TRAINED):
        return True
    near = {target.version, target.version - 1, target.version + 1}
    return bool(near & wanted) if target.kind == VERSION else target.version in wanted


def _identity(half: Sequence[str], task: RoundTask) -> str:
    """Return a hash of what a reference is trained on, and how."""
    return files.json_sha256([sorted(half), task.weights_sha256, task.total_epochs])
