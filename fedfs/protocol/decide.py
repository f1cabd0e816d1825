"""Decisions: pure functions from the accepted messages to the one next action.

Rules:
 * The same state gives the same action, on any host, after any number of restarts.
 * A site does, in this order: fingerprint (in the mode ``asym``: plan for itself), prepare, and for
   the newest version: evaluate it, train from it. Versions it missed are skipped. The last version
   is evaluated, then finished; for what comes then see :mod:`fedfs.protocol.last_version`.
 * The aggregator does: plan once, initial weights, admit sites that come later, close rounds,
   finish. Creating the round record is the decision; a record without its manifest is completed
   before anything else.
 * A site takes part if it is on the roster and in the plan or admitted later. It is away if the
   coordinator has paused it, or its own attendance says so: nobody waits for it, and what it has
   published counts.
 * Waiting is an action and says for whom.
 * Studies that train nothing: :mod:`fedfs.protocol.decide_evaluation`.
"""

from collections.abc import Collection

from fedfs.errors import StudyError
from fedfs.protocol import (
    actions,
    decide_evaluation,
    ensemble,
    round_policies,
    sum_rules,
)
from fedfs.protocol.actions import AggregatorAction, Done, SiteAction, Wait
from fedfs.protocol.decide_sum import decide_last_scores, decide_requested
from fedfs.protocol.last_version import decide_after_last
from fedfs.protocol.messages import (
    ADMITTED,
    ASYM,
    KEPT_LOCAL,
    LOCAL_EXPORTS,
    MODES,
    Attendance,
    UpdateManifest,
)
from fedfs.protocol.participation import (
    announcement,
    believed_sites,
    lacks_configuration,
    paused_sites,
)
from fedfs.protocol.round_status import round_status
from fedfs.protocol.state import NOTHING_CHECKED, Checked, StudyState


def decide_site(
    state: StudyState,
    site: str,
    *,
    prepared: bool,
    attendance: Attendance | None = None,
    alone: bool = False,
    personal: bool = False,
) -> SiteAction:
    """Return what ``site`` does next.

    Args:
        state: what the site accepted from the store.
        site: its name.
        prepared: whether this process has adopted the plan and preprocessed.
        attendance: what the site itself wants, of any number; None to be present.
        alone: whether the site also wants a model of its own data alone, in the end.
        personal: whether the site lacks a personal model that it wants of the last version, or its
            published scores.

    Raises:
        StudyError: the site is not (or no longer) on the roster.
    """
    _require_member(state, site)
    wanted = attendance or Attendance.wanted(site)
    if wanted.status != state.attendance(site):
        before = state.attendances.get(site)
        number = before.number + 1 if before else 1
        return actions.SayAttendance(
            Attendance.numbered(site, number, status=wanted.status, reason=wanted.reason)
        )
    stays_away = _stay_away(state, site)
    if stays_away is not None or state.charter.evaluates:
        return stays_away or decide_evaluation.decide_site(state, site)
    announced, publish, what = _announcement(state)
    if site not in announced:
        return publish
    if state.plan is None:
        return Wait(f"the aggregator's plan, which needs the {what}s of all sites")
    if lacks_configuration(state):
        return _not_planned(state)
    if not state.is_admitted(site):
        return Wait("the aggregator to admit this site, as the plan was made before it came")
    action = _work_on_newest(state, site, alone=alone, personal=personal)
    has_begun = any(of == site for of, _, _ in state.evaluations)
    if not prepared and (not has_begun or not isinstance(action, Wait | Done)):
        return actions.Prepare()  # early the first time; later only if there is work to do
    return action


def _stay_away(state: StudyState, site: str) -> Wait | Done | None:
    """Return why a site has no part in what happens now; None if it has."""
    if state.attendance(site) == "left":
        return Done("this site has left the study", step="left")
    if state.finished is not None and not state.is_admitted(site):
        return Done("nothing to do: this site came after the last version")
    if state.is_away(site):
        return Wait("this site to come back: fedfs site resume")
    if site in paused_sites(state.charter):
        return Wait("the coordinator to let this site go on: it is paused")
    return None


def _work_on_newest(state: StudyState, site: str, *, alone: bool, personal: bool) -> SiteAction:
    version = state.newest
    if version < 0:
        return Wait("the initial weights from the aggregator")
    if ensemble.owes_model(state, site):
        return actions.PublishModel(version)
    if (site, version, "pseudo") not in state.evaluations:
        masks = state.charter.secure_scores
        return (sum_rules.lacks_helper(state) if masks else None) or actions.Evaluate(version)
    if version < state.charter.schedule.rounds:
        if (site, version) not in state.updates:
            return sum_rules.lacks_helper(state) or actions.Train(version)
        return Wait(f"version {version + 1} from the aggregator")
    if not state.is_validated(site, version):
        return actions.Finish(version)
    return decide_after_last(state, site, alone=alone, personal=personal)


def _not_planned(state: StudyState) -> Done:
    return Done(f"nothing to do: nnU-Net plans no {state.charter.configuration} for these data")


def decide_aggregator(  # noqa: PLR0911  one for each state of a track
    state: StudyState,
    *,
    now_s: float,
    checked: Checked = NOTHING_CHECKED,
    barred: Collection[str] = (),
    fewest_updates: int = 1,
) -> AggregatorAction:
    """Return what the aggregator does next.

    Args:
        state: what it accepted from the store.
        now_s: POSIX seconds by the aggregator's clock.
        checked: what this process has found out about what sites announced.
        barred: sites that take no part in a track that comes before this one, and so can never
            begin with it: nobody waits for them.
        fewest_updates: of which the charter's strategy makes a version.

    Raises:
        StudyError: the charter names a policy or a mode that this software does not know.
    """
    charter = state.charter
    _require_known_mode(state)
    if charter.evaluates:
        return decide_evaluation.decide_aggregator(state)
    if state.finished is not None:
        return Done(f"finished: version {state.finished.version} is the last")
    if state.plan is None:
        return _decide_plan(state, barred)
    if lacks_configuration(state):
        return _not_planned(state)
    if not state.rounds:
        return actions.PublishInitial()
    version = max(state.rounds)
    if version not in state.models:
        return actions.CompleteVersion(version)
    if version >= charter.schedule.rounds:
        return _decide_end(state, version, checked)
    newcomer = _newcomer(state, {*checked.refused, *checked.absent}, barred)
    if newcomer is not None:
        return actions.Admit(newcomer)
    return _decide_round(state, version, now_s, checked, fewest_updates)


def _decide_end(state: StudyState, version: int, checked: Checked) -> AggregatorAction:
    awaited = ensemble.awaited_models(state)
    if awaited:
        return Wait(f"the models of {', '.join(awaited)}, for the ensemble")
    return decide_last_scores(state, checked) or actions.CloseStudy(version)


def _decide_round(
    state: StudyState, version: int, now_s: float, checked: Checked, fewest_updates: int
) -> AggregatorAction:
    charter, request = state.charter, state.sum_requests.get(version + 1)
    if charter.secure_sums is not None and request is not None:
        return decide_requested(state, request, checked)
    candidates = _candidates(state, version, checked)
    unchecked = tuple(update.key for update in candidates if update.key not in checked.usable)
    if unchecked:
        return actions.CheckUpdates(unchecked)  # while others still train
    usable = [update for update in candidates if update.key in checked.usable]
    status = round_status(state, version, usable, checked, now_s)
    reason = round_policies.waits_for(charter.policy, status)
    needs = charter.strategy.name
    if charter.secure_sums is not None and charter.secure_sums.min_sites > fewest_updates:
        fewest_updates, needs = charter.secure_sums.min_sites, "a secure sum"
    if not reason and len(usable) < fewest_updates:
        reason = round_policies.lacks_updates(needs, fewest_updates, status)
    if reason and version != charter.closed_round:
        return Wait(reason, until_s=round_policies.changes_at(charter.policy, status))
    if len(usable) < fewest_updates:
        usable = []
    keys = tuple(update.key for update in usable)
    if charter.secure_sums is not None and keys:
        return actions.RequestSum(version, keys)
    return actions.CloseRound(version, keys)


def _candidates(state: StudyState, version: int, checked: Checked) -> list[UpdateManifest]:
    """Return the newest update of each site that waits and may be used, by site.

    One of a site, as rules that compare updates would else give it more than one vote.
    """
    believed = believed_sites(state)
    left = {*checked.refused, *checked.absent, *sum_rules.unusable(state)}
    newest: dict[str, UpdateManifest] = {}
    for key, update in state.waiting.items():
        is_member = update.site in believed and state.is_admitted(update.site)
        if not is_member or update.base_version > version or key in left:
            continue
        if update.site not in newest or newest[update.site].base_version < update.base_version:
            newest[update.site] = update
    return [newest[site] for site in sorted(newest)]


def _newcomer(state: StudyState, unusable: Collection[str], barred: Collection[str]) -> str | None:
    """Return the first site that was approved after the plan was made and can be admitted."""
    for site in state.charter.active_sites:
        has_announced = state.n_cases(site) is not None and not state.is_admitted(site)
        if has_announced and site not in barred and announcement(state, site) not in unusable:
            return site
    return None


def _decide_plan(state: StudyState, barred: Collection[str]) -> AggregatorAction:
    charter = state.charter
    sites = tuple(
        site for site in charter.active_sites if not state.is_away(site) and site not in barred
    )
    if len(sites) < charter.min_sites:
        return Wait(f"the coordinator to approve sites: {len(sites)} of {charter.min_sites} so far")
    announced, _, what = _announcement(state)
    missing = [site for site in sites if site not in announced]
    if missing:
        return Wait(f"the {what} of {', '.join(missing)}")
    return actions.MakePlan(sites)


def _announcement(state: StudyState) -> tuple[Collection[str], SiteAction, str]:
    """Return the announcements that planning needs, by site, how a site makes one, its name."""
    if state.charter.mode == ASYM:
        return state.site_plans, actions.PublishPlan(), "plan"
    return state.fingerprints, actions.PublishFingerprint(), "fingerprint"


def _require_known_mode(state: StudyState) -> None:
    charter = state.charter
    if charter.mode not in MODES:
        raise StudyError(
            f"The charter's mode {charter.mode!r} is unknown to this version of fedfs.",
            hint=f"it knows {', '.join(MODES)}; upgrade fedfs",
        )
    kept = (charter.keep_local, charter.keep_local_export)
    if kept[0] not in KEPT_LOCAL or kept[1] not in LOCAL_EXPORTS:
        raise StudyError(
            f"The charter keeps {' '.join(kept).strip()!r} local, which this version of fedfs does "
            "not know.",
            hint="upgrade fedfs",
        )


def _require_member(state: StudyState, site: str) -> None:
    _require_known_mode(state)
    charter, entry = state.charter, state.charter.entry(site)
    if entry is None:
        raise StudyError(
            f"Site {site!r} is not approved for study {charter.name!r}.",
            hint=f"ask the coordinator to run: fedfs approve STORE {site}",
        )
    if entry.state not in ADMITTED:
        raise StudyError(
            f"Site {site!r} is {entry.state} in study {charter.name!r}.", hint="ask the coordinator"
        )
