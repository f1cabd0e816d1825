"""What to do next: pure functions from what was observed to one action.

Rules:
 * The same state gives the same action, on any host, after any number of restarts.
 * A site does, in this order: fingerprint (in the mode ``asym``: plan for itself), prepare, and for
   the newest version: evaluate it, train from it. Versions it missed are skipped. The last version
   is evaluated, then finished. After that, where the charter asks for it, a site publishes its
   model and scores those of the sites that made the last version; and where it wants to compare,
   it trains alone.
 * The aggregator does: plan once, initial weights, admit sites that come later, close rounds,
   finish. Creating the round record is the decision; a record without its manifest is completed
   before anything else.
 * A site takes part if it is on the roster and in the plan or admitted later. It is away if the
   coordinator has paused it or it said so itself: nobody waits for it, and what it has published
   counts.
 * Waiting is an action and says for whom.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedfs.errors import StudyError
from fedfs.protocol import layout, round_policies
from fedfs.protocol.messages import Charter, UpdateManifest, from_utc
from fedfs.protocol.state import StudyState, newest_charter

FFE, ASYM = MODES = ("ffe", "asym")
"""One plan for all sites; or every site plans for itself and shares the tensors that fit."""

ACTIVE, PAUSED, REMOVED = ROSTER_STATES = ("active", "paused", "removed")
"""What the coordinator says of a site."""

ADMITTED = (ACTIVE, PAUSED)
FAILED = "failed"
"""Step of a status, of a process that stopped with an error."""
"""States in which a site is believed."""

WAITING_PER_SITE = 2
"""Updates of one site that go into one version: one that was late, and one that is not."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""

    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing will ever be left to do."""

    version: int


@dataclass(frozen=True)
class Void:
    """Nothing was ever to be done on this track: nnU-Net plans no such configuration."""

    configuration: str


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
class SayAttendance:
    """Site: tell the aggregator that it pauses, leaves or is back."""

    number: int
    word: str


@dataclass(frozen=True)
class Finish:
    """Site: keep the last version as nnU-Net's final model and validate it in full."""

    version: int


@dataclass(frozen=True)
class PublishModel:
    """Site: publish its whole network for others to score."""

    version: int


@dataclass(frozen=True)
class CrossEvaluate:
    """Site: score the model of another site on own validation cases."""

    version: int
    of: str


@dataclass(frozen=True)
class TrainAlone:
    """Site: train on own data only, with the budget of all rounds; validate in full."""

    version: int


@dataclass(frozen=True)
class MakePlan:
    """Aggregator: merge the fingerprints of these sites, plan once; or find what they share."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class PublishInitial:
    """Aggregator: publish version 0, the initial weights."""


@dataclass(frozen=True)
class Admit:
    """Aggregator: let a site take part that was approved after the plan was made."""

    site: str


@dataclass(frozen=True)
class CompleteVersion:
    """Aggregator: publish the manifest that the round record of ``version`` calls for."""

    version: int


@dataclass(frozen=True)
class CheckUpdates:
    """Aggregator: fetch the payloads of the updates under ``keys``, see whether they are usable."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class CloseRound:
    """Aggregator: make version ``base + 1`` from the updates under ``keys``."""

    base: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class CloseStudy:
    """Aggregator: say that ``version`` is the last."""

    version: int


SiteAction = (
    PublishFingerprint
    | PublishPlan
    | Prepare
    | Evaluate
    | Train
    | SayAttendance
    | Finish
    | PublishModel
    | CrossEvaluate
    | TrainAlone
    | Wait
    | Void
    | Done
)
AggregatorAction = (
    MakePlan
    | PublishInitial
    | Admit
    | CompleteVersion
    | CheckUpdates
    | CloseRound
    | CloseStudy
    | Wait
    | Void
    | Done
)


def decide_site(
    state: StudyState,
    site: str,
    *,
    prepared: bool,
    attendance: str = "present",
    alone: bool = False,
) -> SiteAction:
    """Return what ``site`` does next.

    Args:
        state: what the site accepted from the store.
        site: its name.
        prepared: whether this process has adopted the plan and preprocessed.
        attendance: what the site itself wants: ``present``, ``paused`` or ``left``.
        alone: whether the site also wants a model of its own data alone, in the end.

    Raises:
        StudyError: the site is not (or no longer) on the roster.
    """
    charter = _charter(state)
    _require_member(charter, site)
    if attendance != state.attendance(site):
        before = state.attendances.get(site)
        return SayAttendance(before.number + 1 if before else 1, attendance)
    if held_up := _held_up(state, charter, site):
        return Wait(held_up)
    said, publish, what = _announcement(state, charter)
    if site not in said:
        return publish
    if state.plan is None:
        return Wait(f"the aggregator's plan, which needs the {what}s of all sites")
    if is_void(state):
        return Void(charter.nnunet.configuration)
    if not state.is_admitted(site):
        return Wait("the aggregator to admit this site, as the plan was made before it came")
    action = _work_on_newest(state, charter, site, alone=alone)
    has_begun = any(of == site for of, _, _ in state.evaluations)
    if not prepared and (not has_begun or not isinstance(action, Wait | Done)):
        return Prepare()  # early the first time; later only if there is work to do
    return action


def _held_up(state: StudyState, charter: Charter, site: str) -> str:
    if state.is_away(site):
        return "this site to come back: fedfs site resume"
    if site in _paused(charter):
        return "the coordinator to let this site go on: it is paused"
    return ""


def _work_on_newest(state: StudyState, charter: Charter, site: str, *, alone: bool) -> SiteAction:
    version = state.newest
    if version < 0:
        return Wait("the initial weights from the aggregator")
    if (site, version, "pseudo") not in state.evaluations:
        return Evaluate(version)
    if version < charter.schedule.rounds:
        if (site, version) not in state.updates:
            return Train(version)
        return Wait(f"version {version + 1} from the aggregator")
    if not state.is_validated(site, version):
        return Finish(version)
    return _compare(state, charter, site, alone=alone)


def _compare(state: StudyState, charter: Charter, site: str, *, alone: bool) -> SiteAction:
    """Return what a site does once it has the final model."""
    version = state.newest
    if charter.cross_evaluates and site not in state.site_models:
        return PublishModel(version)
    unscored = [of for of in state.site_models if not has_scored(state, site, of)]
    if unscored:
        return CrossEvaluate(version, min(unscored))
    if alone and (site, version, "local") not in state.evaluations:
        return TrainAlone(version)
    missing = [of for of in _owed(state, charter, site) if of not in state.site_models]
    if missing:
        return Wait(f"the models of {', '.join(missing)}, to score them")
    return Done(version) if state.finished else Wait("the aggregator to close the study")


def has_scored(state: StudyState, site: str, of: str) -> bool:
    """Whether a site has scored another one's model of the last version; its own needs no score."""
    return of == site or (site, state.newest, layout.score_of(of)) in state.evaluations


def _owed(state: StudyState, charter: Charter, site: str) -> list[str]:
    """Return the other sites whose models ``site`` scores: those that made the last version."""
    record = state.rounds.get(state.newest)
    if not charter.cross_evaluates or record is None:
        return []
    active = set(charter.active_sites)
    return sorted({u.site for u in record.updates if u.site in active and u.site != site})


def decide_aggregator(
    state: StudyState,
    *,
    now_s: float,
    checked: Collection[str] = (),
    absent: Collection[str] = (),
) -> AggregatorAction:
    """Return what the aggregator does next.

    Args:
        state: what it accepted from the store.
        now_s: POSIX seconds by the aggregator's clock.
        checked: keys of updates whose payload this process has fetched and found usable.
        absent: keys of updates whose payload is not there yet.

    Raises:
        StudyError: the charter names a policy that this software does not know.
    """
    charter = _charter(state)
    if state.finished is not None:
        return Done(state.finished.version)
    if state.plan is None:
        return _decide_plan(state, charter)
    if is_void(state):
        return Void(charter.nnunet.configuration)
    if not state.rounds:
        return PublishInitial()
    version = max(state.rounds)
    if version not in state.models:
        return CompleteVersion(version)
    if version >= charter.schedule.rounds:
        return CloseStudy(version)
    return _decide_round(state, version, now_s=now_s, checked=checked, absent=absent)


def _decide_round(
    state: StudyState,
    version: int,
    *,
    now_s: float,
    checked: Collection[str],
    absent: Collection[str],
) -> AggregatorAction:
    charter = _charter(state)
    newcomer = _newcomer(state, charter)
    if newcomer is not None:
        return Admit(newcomer)
    candidates = _candidates(state, version)
    unchecked = tuple(u.key for u in candidates if u.key not in checked and u.key not in absent)
    if unchecked:
        return CheckUpdates(unchecked)  # while others still train
    usable = [update for update in candidates if update.key in checked]
    reason = round_policies.waits_for(
        charter.policy, _standing(state, version, usable, absent, now_s)
    )
    if reason:
        return Wait(reason)
    return CloseRound(version, tuple(update.key for update in usable))


def participants(state: StudyState) -> tuple[str, ...]:
    """Return the sites that take part and are not away, sorted."""
    return tuple(
        site for site in _charter(state).active_sites
        if state.is_admitted(site) and not state.is_away(site)
    )  # fmt: skip


def is_over(state: StudyState, sites: Iterable[str]) -> bool:
    """Whether the study is closed, and these sites have scored all that they should."""
    return is_void(state) or (
        state.finished is not None
        and all(
            state.is_validated(site, state.newest)
            and all(has_scored(state, site, of) for of in _owed(state, _charter(state), site))
            for site in sites
        )
    )


def planned_configurations(state: StudyState) -> tuple[str, ...]:
    """Return the configurations of a study of tracks, once there is a plan those that it has.

    Who cannot decrypt the plan learns it when the best of them is chosen.
    """
    charter = newest_charter(state)
    made: Collection[str] = ()
    if state.plan is not None and charter.mode == FFE:
        made = state.plan.plans.get("configurations", ())
    if not made and state.choice is not None:
        made = state.choice.dice.keys()
    return tuple(name for name in charter.configurations if not made or name in made)


def is_void(state: StudyState) -> bool:
    """Whether this is a track of which nothing becomes: the plan has no such configuration."""
    configuration = newest_charter(state).nnunet.configuration
    has_tracks = bool(configuration and newest_charter(state).tracks)
    return has_tracks and configuration not in planned_configurations(state)


def announcement(state: StudyState, site: str) -> str:
    """Return the key under which a site tells what planning needs to know of it."""
    if _charter(state).mode == ASYM:
        return layout.site_plan(site)
    return layout.fingerprint(site)


def waited_for(state: StudyState, version: int) -> tuple[str, ...]:
    """Return the sites that have not answered ``version`` with an update yet and are not away."""
    return tuple(site for site in participants(state) if (site, version) not in state.updates)


def left_out(state: StudyState, version: int, used: Collection[str]) -> dict[str, str]:
    """Return site -> why nothing of it went into the version after ``version``, in words.

    Args:
        state: what the aggregator accepted.
        version: the newest version.
        used: sites whose updates went in.
    """
    paused, out = _paused(_charter(state)), {}
    for site in _believed(state):
        if site in used or not state.is_admitted(site):
            continue
        update = state.updates.get((site, version))
        if update is not None and update.key in state.unusable:
            out[site] = f"its update was refused: it {state.unusable[update.key]}"
        elif site in paused:
            out[site] = "paused by the coordinator"
        elif state.is_away(site):
            said = state.attendances[site]
            out[site] = f"{said.word}: {said.reason}" if said.reason else said.word
        else:
            out[site] = f"no update from version {version} in time"
    return out


def refusals(state: StudyState, site: str) -> dict[str, str]:
    """Return key -> why the aggregator does not accept it, of what ``site`` published."""
    aggregator = state.statuses.get("")
    said = {**(aggregator.rejected if aggregator else {}), **state.refused}
    prefix = layout.site_prefix(site)
    return {key: reason for key, reason in sorted(said.items()) if key.startswith(prefix)}


def answerable(state: StudyState) -> tuple[str, ...]:
    """Return the sites on the roster from which something new can come that matters now."""
    return tuple(site for site in _believed(state) if (site, state.newest) not in state.updates)


def _candidates(state: StudyState, version: int) -> list[UpdateManifest]:
    """Return the updates that wait and may be used, by site and version; of each site the last."""
    believed = _believed(state)
    of_site: dict[str, list[UpdateManifest]] = {}
    for key, update in state.waiting.items():
        known = update.site in believed and state.is_admitted(update.site)
        if known and update.base_version <= version and key not in state.unusable:
            of_site.setdefault(update.site, []).append(update)
    return [
        update
        for site in sorted(of_site)
        for update in sorted(of_site[site], key=lambda u: u.base_version)[-WAITING_PER_SITE:]
    ]


def _standing(
    state: StudyState,
    version: int,
    usable: Collection[UpdateManifest],
    absent: Collection[str],
    now_s: float,
) -> round_policies.Standing:
    sites = participants(state)
    fresh = {update.site for update in usable if update.base_version == version}
    said = {site for site in sites if (site, version) in state.updates}
    not_there = {site for site in sites if layout.update(site, version) in absent}
    return round_policies.Standing(
        version=version,
        opened_s=from_utc(state.rounds[version].created_at),
        now_s=now_s,
        n_cases={site: state.n_cases(site) or 0 for site in sites},
        answered=[site for site in sites if site in fresh],
        missing=[site for site in sites if site not in said or site in not_there],
        n_usable=len(usable),
    )


def _newcomer(state: StudyState, charter: Charter) -> str | None:
    """Return the first site that was approved after the plan was made and can be admitted."""
    for site in charter.active_sites:
        has_announced = state.n_cases(site) is not None and not state.is_admitted(site)
        if has_announced and announcement(state, site) not in state.unusable:
            return site
    return None


def _believed(state: StudyState) -> tuple[str, ...]:
    """Return the sites whose messages count, sorted."""
    roster = _charter(state).roster
    return tuple(sorted(entry.site for entry in roster if entry.state in ADMITTED))


def _paused(charter: Charter) -> tuple[str, ...]:
    return tuple(sorted(entry.site for entry in charter.roster if entry.state == PAUSED))


def _decide_plan(state: StudyState, charter: Charter) -> AggregatorAction:
    sites = tuple(site for site in charter.active_sites if not state.is_away(site))
    if len(sites) < charter.min_sites:
        return Wait(f"the coordinator to approve sites: {len(sites)} of {charter.min_sites} so far")
    said, _, what = _announcement(state, charter)
    missing = [site for site in sites if site not in said]
    if missing:
        return Wait(f"the {what} of {', '.join(missing)}")
    return MakePlan(sites)


def failure_of_aggregator(state: StudyState) -> str:
    """Return in words that the aggregator has stopped with an error; "" if it has not."""
    status = state.statuses.get("")
    return f"; it failed: {status.error}" if status and status.step == FAILED else ""


def _announcement(state: StudyState, charter: Charter) -> tuple[Collection[str], SiteAction, str]:
    """Return who has said what planning needs of a site, how a site says it, and its name."""
    if charter.mode == ASYM:
        return state.site_plans, PublishPlan(), "plan"
    return state.fingerprints, PublishFingerprint(), "fingerprint"


def _charter(state: StudyState) -> Charter:
    charter = newest_charter(state)
    if charter.mode not in MODES:
        raise StudyError(
            f"the charter's mode {charter.mode!r} is unknown to this version of fedfs",
            hint=f"it knows {', '.join(MODES)}; upgrade fedfs",
        )
    return charter


def _require_member(charter: Charter, site: str) -> None:
    entry = charter.entry(site)
    if entry is None:
        raise StudyError(
            f"site {site!r} is not approved for study {charter.name!r}",
            hint=f"ask the coordinator to run: fedfs approve STORE {site}",
        )
    if entry.state not in ADMITTED:
        raise StudyError(
            f"site {site!r} is {entry.state} in study {charter.name!r}",
            hint="ask the coordinator",
        )
