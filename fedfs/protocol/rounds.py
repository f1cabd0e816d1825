"""What to do next: pure functions from what was observed to one action.

Rules:
 * The same state gives the same action, on any host, after any number of restarts.
 * A site does, in this order: fingerprint (in the mode ``asym``: plan for itself), prepare, and for
   the newest version: evaluate it, train from it. Versions it missed are skipped. The last version
   is evaluated, then finished.
 * The aggregator does: plan once, initial weights, close rounds, finish. Creating the round
   record is the decision; a record without its manifest is completed before anything else.
 * Waiting is an action and says for whom.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, Named
from fedfs.protocol.state import StudyState

FFE, ASYM = MODES = ("ffe", "asym")
"""One plan for all sites; or every site plans for itself and shares the tensors that fit."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""

    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing will ever be left to do."""

    version: int


@dataclass(frozen=True)
class PublishFingerprint:
    """Site: read the dataset, publish its fingerprint."""


@dataclass(frozen=True)
class PublishPlan:
    """Site, mode ``asym``: plan for itself, publish which tensors its network has."""


@dataclass(frozen=True)
class Prepare:
    """Site: adopt the plan, preprocess."""


@dataclass(frozen=True)
class Evaluate:
    """Site: score a global version on own validation cases."""

    version: int


@dataclass(frozen=True)
class Train:
    """Site: train one local budget from a global version, publish the update."""

    version: int


@dataclass(frozen=True)
class Finish:
    """Site: keep the last version as nnU-Net's final model and validate it in full."""

    version: int


@dataclass(frozen=True)
class MakePlan:
    """Aggregator: merge the fingerprints of these sites, plan once; or find what they share."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class PublishInitial:
    """Aggregator: publish version 0, the initial weights."""


@dataclass(frozen=True)
class CompleteVersion:
    """Aggregator: publish the manifest that the round record of ``version`` calls for."""

    version: int


@dataclass(frozen=True)
class CheckUpdate:
    """Aggregator: fetch the payload of the update under ``key`` and see whether it can be used."""

    key: str


@dataclass(frozen=True)
class CloseRound:
    """Aggregator: make version ``base + 1`` from the updates under ``keys``."""

    base: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class CloseStudy:
    """Aggregator: say that ``version`` is the last."""

    version: int


SiteAction = PublishFingerprint | PublishPlan | Prepare | Evaluate | Train | Finish | Wait | Done
AggregatorAction = (
    MakePlan
    | PublishInitial
    | CompleteVersion
    | CheckUpdate
    | CloseRound
    | CloseStudy
    | Wait
    | Done
)


def decide_site(state: StudyState, site: str, *, prepared: bool) -> SiteAction:
    """Return what ``site`` does next.

    Args:
        state: what the site accepted from the store.
        site: its name.
        prepared: whether this process has adopted the plan and preprocessed.

    Raises:
        StudyError: the site is not (or no longer) on the roster.
    """
    charter = _charter(state)
    _require_member(charter, site)
    said, publish, what = _announcement(state, charter)
    if site not in said:
        return publish
    if state.plan is None:
        return Wait(f"the aggregator's plan, which needs the {what}s of all sites")
    if site not in state.plan.sites:
        return Wait("nothing: the plan was made before this site joined, and does not include it")
    action = _work_on_newest(state, charter, site)
    has_begun = any(of == site for of, _, _ in state.evaluations)
    if not prepared and (not has_begun or not isinstance(action, Wait | Done)):
        return Prepare()  # early the first time; later only if there is work to do
    return action


def _work_on_newest(state: StudyState, charter: Charter, site: str) -> SiteAction:
    version = state.newest
    if version < 0:
        return Wait("the initial weights from the aggregator")
    if (site, version, "pseudo") not in state.evaluations:
        return Evaluate(version)
    if version < charter.schedule.rounds:
        if (site, version) not in state.updates:
            return Train(version)
        return Wait(f"version {version + 1} from the aggregator")
    if (site, version, "full") not in state.evaluations:
        return Finish(version)
    return Done(version) if state.finished else Wait("the aggregator to close the study")


def decide_aggregator(state: StudyState, *, checked: Collection[str] = ()) -> AggregatorAction:
    """Return what the aggregator does next.

    Args:
        state: what it accepted from the store.
        checked: keys of updates whose payload this process has fetched and found usable.

    Raises:
        StudyError: the charter names a policy that this software does not know.
    """
    charter = _charter(state)
    if state.finished is not None:
        return Done(state.finished.version)
    if state.plan is None:
        return _decide_plan(state, charter)
    if not state.rounds:
        return PublishInitial()
    version = max(state.rounds)
    if version not in state.models:
        return CompleteVersion(version)
    if version >= charter.schedule.rounds:
        return CloseStudy(version)
    unchecked = _received(state, version) - {*checked, *state.unusable}
    if unchecked:
        return CheckUpdate(min(unchecked))  # while others still train
    return _policy(charter.policy)(state, charter.policy, version)


def waited_for(state: StudyState, version: int) -> tuple[str, ...]:
    """Return the sites in the plan that have not answered ``version`` with an update yet."""
    if state.plan is None:
        return ()
    return tuple(site for site in _participants(state) if (site, version) not in state.updates)


def _decide_plan(state: StudyState, charter: Charter) -> AggregatorAction:
    sites = charter.active_sites
    if len(sites) < charter.min_sites:
        return Wait(f"the coordinator to approve sites: {len(sites)} of {charter.min_sites} so far")
    said, _, what = _announcement(state, charter)
    missing = [site for site in sites if site not in said]
    if missing:
        return Wait(f"the {what} of {', '.join(missing)}")
    return MakePlan(sites)


def _announcement(state: StudyState, charter: Charter) -> tuple[Collection[str], SiteAction, str]:
    """Return who has said what planning needs of a site, how a site says it, and its name."""
    if charter.mode == ASYM:
        return state.site_plans, PublishPlan(), "plan"
    return state.fingerprints, PublishFingerprint(), "fingerprint"


def _close_when_all(state: StudyState, policy: Named, version: int) -> AggregatorAction:  # noqa: ARG001  a policy's signature
    missing = waited_for(state, version)
    if missing:
        return Wait(f"the update of {', '.join(missing)} from version {version}")
    usable = _received(state, version) - set(state.unusable)
    if not usable:
        return Wait(f"a usable update from version {version}; every one so far was refused")
    return CloseRound(version, tuple(sorted(usable)))


Policy = Callable[[StudyState, Named, int], AggregatorAction]
POLICIES: dict[str, Policy] = {"all": _close_when_all}
"""When a round closes, by the name a charter gives."""


def _policy(named: Named) -> Policy:
    try:
        return POLICIES[named.name]
    except KeyError:
        raise StudyError(
            f"the charter's policy {named.name!r} is unknown to this version of fedfs",
            hint=f"it knows {', '.join(sorted(POLICIES))}; upgrade fedfs",
        ) from None


def _participants(state: StudyState) -> tuple[str, ...]:
    """Sites that the plan includes and that are active now, sorted."""
    charter, plan = _charter(state), state.plan
    return tuple(s for s in charter.active_sites if plan is not None and s in plan.sites)


def _received(state: StudyState, version: int) -> set[str]:
    """Keys of the participants' updates from ``version``."""
    return {
        layout.update(site, version)
        for site in _participants(state)
        if (site, version) in state.updates
    }


def _charter(state: StudyState) -> Charter:
    if state.charter is None:
        raise StudyError("the store holds no charter that can be trusted")
    if state.charter.mode not in MODES:
        raise StudyError(
            f"the charter's mode {state.charter.mode!r} is unknown to this version of fedfs",
            hint=f"it knows {', '.join(MODES)}; upgrade fedfs",
        )
    return state.charter


def _require_member(charter: Charter, site: str) -> None:
    entry = charter.entry(site)
    if entry is None:
        raise StudyError(
            f"site {site!r} is not approved for study {charter.name!r}",
            hint=f"ask the coordinator to run: fedfs approve STORE {site}",
        )
    if entry.state != "active":
        raise StudyError(
            f"site {site!r} is {entry.state} in study {charter.name!r}",
            hint="ask the coordinator",
        )
