"""Membership test of a site's updates and of global versions, against the site's own cases.

Rules:
 * The cases that are trained on are compared with those that the fold keeps back: cases of the same
   site, divided by chance. Of a patient who has cases of both kinds, those kept back do not count.
 * Nothing is published: the store is only read.
 * How well each model fits each case is kept in the folder of the track. Stopped at any moment and
   given again, the test goes on with the next model.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fedfs.aggregation.membership import CaseFit, Fits, fpr_bound
from fedfs.errors import StudyError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_tracks
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.membership.case_fits import CaseFits
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import layout
from fedfs.protocol.messages import ASYM
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.membership.models import TRAINED, UPDATE, VERSION, SiteModels, Target
from fedfs.roles.site.membership.result import MembershipAudit, attack_all
from fedfs.roles.site.network import own_plan
from fedfs.roles.site.training import site_parts
from fedfs.store import open_store
from fedfs.trust.recipients import Vault

FOLDER = "membership"
"""Name of the folder, in that of a track, for what this test keeps."""


def audit_membership(
    config: SiteConfig,
    *,
    versions: Sequence[int] = (),
    on_progress: OnProgress = lambda _: None,
) -> list[MembershipAudit]:
    """Test what a site's updates and the global versions tell about its cases; at the site.

    Args:
        config: of the site, with the tracks to test.
        versions: to test, each with the update that was trained from it; empty for all.
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
        _Track(config, name, observer).audit(versions, on_progress)
        for name, observer in observers.items()
    ]


class _Track:
    """The test on one track."""

    def __init__(self, config: SiteConfig, name: str, observer: Observer) -> None:
        self._config, self._name, self._observer = config, name, observer
        self._notes: list[str] = []

    def audit(self, versions: Sequence[int], on_progress: OnProgress) -> MembershipAudit:
        state = self._observer.state
        if state.charter.evaluates:
            raise StudyError("This study trains nothing, and tells nothing of training cases.")
        if state.plan is None or not state.models:
            raise StudyError(
                f"Track {self._name} has no version yet.", hint="test again after the first round"
            )
        if unknown := sorted(set(versions) - set(state.models)):
            raise StudyError(
                f"There is no version {unknown[0]}.", hint=f"the newest is {state.newest}"
            )
        paths = from_environment(os.environ)
        learner, folder = site_parts(self._config, self._observer.store, state.charter, paths)
        own = folder / FOLDER
        own.mkdir(exist_ok=True)
        self._prepare(learner, on_progress)
        settings, plans, dataset = learner.prepared()
        meter = CaseFits(settings, plans, dataset, results=own / "results")
        trained, others = self._cases(meter, learner.patients())
        with tempfile.TemporaryDirectory(dir=own) as scratch:
            models = SiteModels(self._config.site, self._observer, learner, folder, Path(scratch))
            if state.charter.secure_sums is not None:
                self._notes.append(
                    "The sums of this study are secure: nobody reads an update, and none is tested."
                )
            if models.network.private:
                self._notes.append(
                    f"{len(models.network.private)} tensors of the site's own never leave it; here "
                    "all models have them as they are now, which others do not."
                )
            fits = self._fits(models, meter, (*trained, *others), versions, own, on_progress)
        learner.close()
        seed = state.charter.seed
        return MembershipAudit(
            track=self._name,
            n_trained=len(trained),
            n_others=len(others),
            fpr_bound=fpr_bound(len(others)),
            models=attack_all(fits, versions, set(trained), learner.patients(), seed),
            notes=self._notes,
        )

    def _prepare(self, learner: NnUNetLearner, on_progress: OnProgress) -> None:
        """Adopt the plan that the site trains with; its cases are preprocessed already."""
        state = self._observer.state
        plan = state.plan
        if plan is None:
            raise StudyError("There is no plan to adopt.")
        plans, fingerprint = plan.plans, plan.fingerprint
        if state.charter.mode == ASYM:
            own = own_plan(learner, state.site_plans[self._config.site], on_progress)
            plans, fingerprint = own.plans, own.fingerprint
        learner.prepare(plans, fingerprint, on_progress)

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

    def _fits(
        self,
        models: SiteModels,
        meter: CaseFits,
        cases: Sequence[str],
        versions: Sequence[int],
        folder: Path,
        on_progress: OnProgress,
    ) -> dict[Target, Fits]:
        """Return how well the models fit the cases, measured where that is not kept."""
        targets = [target for target in models.targets() if _is_needed(target, versions)]
        total, done = len(targets) * len(cases), 0
        found: dict[Target, Fits] = {}
        for target in targets:
            path = folder / f"{target.name}.json"
            fits = _kept(path, target, cases)
            if fits is None:
                try:
                    meter.load(models.tensors(target))
                except StudyError as error:
                    self._notes.append(str(error))
                    continue
                fits = {}
                for case in cases:
                    fits[case] = meter.fit(case)
                    on_progress(Progress("membership", done + len(fits), total, "case"))
                content = {case: asdict(fit) for case, fit in fits.items()}
                files.write_json(path, {"sha256": target.sha256, "cases": content})
            done += len(cases)
            on_progress(Progress("membership", done, total, "case"))
            found[target] = fits
        return found


def _is_needed(target: Target, versions: Sequence[int]) -> bool:
    """Return whether a model is to be tested, or another is compared with it."""
    wanted = set(versions)
    if not wanted or target.kind not in (VERSION, UPDATE, TRAINED):
        return True
    near = {target.version, target.version - 1, target.version + 1}
    return bool(near & wanted) if target.kind == VERSION else target.version in wanted


def _kept(path: Path, target: Target, cases: Sequence[str]) -> Fits | None:
    """Return what was measured before of a model; None where it is to be measured."""
    if not path.exists():
        return None
    content = read_json(path)
    if content.get("sha256") != target.sha256 or not set(cases) <= set(content["cases"]):
        return None
    return {case: CaseFit(**content["cases"][case]) for case in cases}
