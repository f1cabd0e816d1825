"""Status of a study for people: the phase, every site's activity, and who waits for whom.

Pure: no I/O, no clock. ``summarize`` makes the view model that the terminal and ``--json`` show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedfs.errors import MalformedError
from fedfs.protocol import layout, participation
from fedfs.protocol.decide_sum import lacking_scores
from fedfs.protocol.messages import (
    ACTIVE,
    ASYM,
    SUPPRESSED,
    Charter,
    RosterEntry,
    StatusMessage,
    from_utc,
)
from fedfs.protocol.state import StudyState
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.reader import helper_status
from fedfs.roles.reader.evaluations import hidden_text, mean_dice
from fedfs.roles.reader.given_models import mean_dice_of, progress_of
from fedfs.roles.reader.model_scores import Choice, choices
from fedfs.roles.reader.trained_part import trained_here
from fedfs.roles.reader.units import format_duration
from fedfs.trust.signing import key_fingerprint

ASKS = "asks to join"
"""State of a site that nobody has approved yet."""

APPROVAL = "the coordinator's approval"
"""Awaited while sites ask to join and too few are on the roster."""

NOT_PLANNED = "not planned"
"""Phase of a track whose configuration nnU-Net does not plan for these data."""

_FAILED = "failed: "
_MONTH_S = 30 * 86_400.0
_COUNTED_S = 600.0


@dataclass(frozen=True)
class SiteStatus:
    """One site, or one that asks to be one.

    Attributes:
        state: ``asks to join``, the state on the roster (``active``, ``paused``, ``removed``), or
            the one that the site has published itself (``paused``, ``left``).
        activity: its present or last step, as text.
        since: UTC time of its last sign of life; "" if none.
        n_cases: cases it announced.
        coverage: share of its network's parameters that it shares; None before the plan.
        last_update: newest version it trained from; None if none.
        mean_dice: nnU-Net's pseudo Dice of the newest version it has evaluated, with that version.
        validated_dice: mean Dice of nnU-Net's full validation of the last version; None before it.
        best: the model that it would choose, where it has compared several.
        failures: number of failure records.
        left_out: since when nothing of it went into a version, and why; "" if something did.
        suppressed: its policy lets no scores of it leave.
    """

    site: str
    state: str
    key_fingerprint: str
    activity: str
    since: str
    n_cases: int | None
    coverage: float | None
    last_update: int | None
    evaluated_version: int | None
    mean_dice: float | None
    validated_dice: float | None
    best: Choice | None
    failures: int
    left_out: str
    suppressed: bool


@dataclass(frozen=True)
class StudyStatus:
    """The whole study at a glance.

    Attributes:
        mode: ``ffe``: one plan for all sites; ``asym``: every site plans for itself.
        phase: ``joining``, ``planning``, ``training`` (or ``evaluating``), ``finished``; of a track
            also ``not planned``, if nnU-Net has no such configuration for these data.
        version: newest global version, -1 before there is one.
        waiting_for: names of who is waited for; ``waiting_since`` says since when (UTC).
        helper: activity of the helper of secure sums; "" in a study without them.
        helper_asks: key fingerprint of a helper who is not approved; "" for none.
        mean_dice: by version, the case-weighted mean of the sites' pseudo Dice.
        validated_dice: the case-weighted mean of the sites' full validations of the last version.
        rejected: key -> reason, for objects on the store that nobody accepts.
        policy: the rule by which rounds close, as text.
        trains: the part of the network that is trained, and its bytes; "" for all of it.
        n_bytes: what lies on the store, by what it is: models, updates, messages.
        requests: role -> kind of request -> number so far, where they are counted.
        requests_per_month: estimate from these and the time they took; None without.
        best: configuration or ensemble that was chosen in the end, as text; "" if none was.
        choice_waits_for: whose scores the choice lacks, or ``aggregator``; empty if it is made, and
            before all of this track is done.
        given_dice: given model -> site -> mean Dice there, of a study that trains nothing.
        hidden: sites of which this host may read nothing, so that it shows only what others say.
    """

    study: str
    name: str
    mode: str
    coordinator_fingerprint: str
    phase: str
    version: int
    rounds: int
    waiting_for: tuple[str, ...]
    waiting_since: str
    aggregator: str
    aggregator_since: str
    helper: str
    helper_since: str
    helper_asks: str
    sites: tuple[SiteStatus, ...]
    mean_dice: Mapping[str, float]
    validated_dice: float | None
    rejected: Mapping[str, str]
    policy: str
    trains: str
    n_bytes: Mapping[str, int]
    requests: Mapping[str, Mapping[str, int]]
    requests_per_month: int | None
    best: str
    choice_waits_for: tuple[str, ...]
    given_dice: Mapping[str, Mapping[str, float | None]]
    hidden: tuple[str, ...]


def summarize(
    state: StudyState,
    sizes: Mapping[str, int] = MappingProxyType({}),
    *,
    seen_by: str | None = None,
) -> StudyStatus:
    """Return the view model of a study.

    Args:
        state: accepted messages.
        sizes: key -> bytes of all that lies on the store.
        seen_by: the only site of which messages are seen, :attr:`Observer.site`; None for all.

    Raises:
        StudyError: there is no charter.
    """
    charter = state.charter
    phase, waiting, since = _waiting(state, charter)
    waiting = _seen(waiting, seen_by, charter)
    aggregator, helper = state.statuses.get(""), state.statuses.get(HELPER_SITE)
    names = sorted({*charter.active_sites, *(e.site for e in charter.roster), *state.joins})
    best = {choice.site: choice for choice in choices(state)}
    return StudyStatus(
        study=charter.study,
        name=charter.name,
        mode=charter.mode,
        coordinator_fingerprint=key_fingerprint(charter.coordinator_key),
        phase=phase,
        version=state.newest,
        rounds=charter.schedule.rounds,
        waiting_for=waiting,
        waiting_since=since,
        aggregator=_activity(aggregator),
        aggregator_since=aggregator.created_at if aggregator else "",
        helper=_activity(helper) if charter.secure_sums is not None else "",
        helper_since=helper.created_at if helper else "",
        helper_asks=helper_status.asks(state),
        sites=tuple(_site(state, charter, name, seen_by, best.get(name)) for name in names),
        mean_dice={
            str(v): dice for v in sorted(state.models) if (dice := mean_dice(state, v)) is not None
        },
        validated_dice=mean_dice(state, state.newest, "full"),
        rejected=_rejected(state),
        policy=_policy(charter),
        trains=trained_here(state),
        n_bytes=_n_bytes(sizes),
        requests={
            {"": "aggregator", HELPER_SITE: "helper"}.get(name, name): status.requests
            for name, status in sorted(state.statuses.items())
            if status.requests
        },
        requests_per_month=_requests_per_month(state),
        best=state.choice.words if state.choice else "",
        choice_waits_for=_seen(_choice_waits_for(state, charter), seen_by, charter),
        given_dice=mean_dice_of(state),
        hidden=tuple(name for name in names if seen_by not in (None, name)),
    )


def has_failed(activity: str) -> bool:
    """Return whether the activity of a site or of the aggregator says that its process stopped."""
    return activity.startswith(_FAILED)


def _seen(waiting: tuple[str, ...], seen_by: str | None, charter: Charter) -> tuple[str, ...]:
    """Leave out sites of which nothing is seen; that anybody else is waited for may be wrong."""
    sites = {entry.site for entry in charter.roster}
    return tuple(name for name in waiting if seen_by in (None, name) or name not in sites)


def _choice_waits_for(state: StudyState, charter: Charter) -> tuple[str, ...]:
    if not charter.chooses or state.choice is not None or state.finished is None:
        return ()
    scoring = participation.participants(state) if charter.cross_validates else ()
    missing = tuple(site for site in sorted(scoring) if site not in state.cross_validations)
    return missing or ("aggregator",)


def _policy(charter: Charter) -> str:
    options = ", ".join(f"{name} {value:g}" for name, value in charter.policy.options.items())
    return f"{charter.policy.name} ({options})" if options else charter.policy.name


def _n_bytes(sizes: Mapping[str, int]) -> dict[str, int]:
    out = {"models": 0, "updates": 0, "messages": 0}
    for text, size in sizes.items():
        key = layout.parse(text)
        if key is not None:
            kind = "messages" if not key.is_payload else "updates" if key.writer else "models"
            out[kind] += size
    return out


def _requests_per_month(state: StudyState) -> int | None:
    """Extrapolate what every role has counted; None if nobody has counted long enough."""
    total = 0.0
    for status in state.statuses.values():
        try:
            seconds = from_utc(status.created_at) - from_utc(status.counting_since)
        except MalformedError:
            continue
        if seconds >= _COUNTED_S:
            total += sum(status.requests.values()) / seconds * _MONTH_S
    return round(total) or None


def _rejected(state: StudyState) -> dict[str, str]:
    """Return the objects that were not accepted: by us, aggregator, helper or a past round."""
    aggregator = state.statuses.get("")
    left_out = {item.key: item.reason for r in state.rounds.values() for item in r.excluded}
    helper = state.statuses.get(HELPER_SITE)
    told = {**(aggregator.rejected if aggregator else {}), **(helper.rejected if helper else {})}
    return {**left_out, **told, **state.rejected}


def _waiting(state: StudyState, charter: Charter) -> tuple[str, tuple[str, ...], str]:
    """Return the phase, who is waited for, and since when."""
    is_evaluating = charter.evaluates and len(charter.active_sites) >= charter.min_sites
    if charter.evaluates and (is_evaluating or state.finished is not None):
        return progress_of(state)
    if state.finished is not None:
        last = state.finished.version
        missing = tuple(
            site
            for site in charter.active_sites
            if not state.is_validated(site, last) or participation.lacks_ensemble_score(state, site)
        )
        return "finished", missing, state.finished.created_at if missing else ""
    if state.plan is None:
        if len(charter.active_sites) < charter.min_sites:
            unapproved = set(state.joins) - {entry.site for entry in charter.roster}
            who = APPROVAL if unapproved else "sites to join"
            return "joining", (who,), charter.created_at
        contributions = state.site_plans if charter.mode == ASYM else state.fingerprints
        late = tuple(site for site in charter.active_sites if site not in contributions)
        return "planning", late or ("aggregator",), charter.created_at
    if participation.lacks_configuration(state):
        return NOT_PLANNED, (), ""
    if state.newest < 0:
        return "planning", ("aggregator",), state.plan.created_at
    newest = state.models[state.newest]
    is_last = state.newest >= charter.schedule.rounds
    late = lacking_scores(state) if is_last else participation.waited_for(state, state.newest)
    helper = helper_status.awaited(state)
    if helper is not None and (not is_last or charter.secure_scores):
        return "training", *helper
    return "training", late or ("aggregator",), newest.created_at


def _site(
    state: StudyState, charter: Charter, name: str, seen_by: str | None, best: Choice | None
) -> SiteStatus:
    entry, join, status = charter.entry(name), state.joins.get(name), state.statuses.get(name)
    public_key = entry.public_key if entry else join.public_key if join else ""
    updates = [version for site, version in state.updates if site == name]
    used = (one for record in state.rounds.values() for one in record.updates)
    updates += [one.base_version for one in used if one.site == name]
    evaluated = max(
        (version for site, version, variant in state.evaluations
         if site == name and variant == "pseudo"),
        default=None,
    )  # fmt: skip
    score = None if evaluated is None else state.evaluations[name, evaluated, "pseudo"]
    validated = state.evaluations.get((name, state.newest, "full"))
    last = status or join
    return SiteStatus(
        site=name,
        state=_state(state, entry, name),
        key_fingerprint=key_fingerprint(public_key) if public_key else "",
        activity=_activity(status, is_seen=seen_by in (None, name))
        if entry
        else "waits for approval",
        since=last.created_at if last else "",
        n_cases=join.n_cases if join else None,
        coverage=_coverage(state, name),
        last_update=max(updates, default=None),
        evaluated_version=evaluated,
        mean_dice=score.mean_dice if score else None,
        validated_dice=validated.mean_dice if validated else None,
        best=best,
        failures=sum(failure.site == name for failure in state.failures),
        left_out=_left_out(state, name),
        suppressed=any(
            hidden_text(state, one) == SUPPRESSED
            for one in state.evaluations.values()
            if one.site == name
        ),
    )


def _left_out(state: StudyState, site: str) -> str:
    """Return a sentence on a site of which nothing goes into versions now; "" if something does."""
    if not state.rounds:
        return ""
    for item in state.rounds[max(state.rounds)].left_out:
        if item.site == site:
            return f"left out since version {item.since_version} ({item.since}): {item.reason}"
    return ""


def _state(state: StudyState, entry: RosterEntry | None, site: str) -> str:
    if entry is None:
        return ASKS
    if entry.state == ACTIVE and state.is_away(site):
        return state.attendance(site)
    return entry.state


def _coverage(state: StudyState, site: str) -> float | None:
    if state.plan is None or not state.is_admitted(site):
        return None
    if site in state.admissions:
        return state.admissions[site].coverage
    return state.plan.coverage.get(site, 1.0)


def _activity(status: StatusMessage | None, *, is_seen: bool = True) -> str:
    if status is None:
        return "not seen yet" if is_seen else "hidden"
    if status.error:
        return f"{_FAILED}{status.error}"
    if status.waiting_for:
        return f"waits for {status.waiting_for}"
    text = status.step
    if status.total:
        text += f" {status.done}/{status.total} {status.unit}"
    if status.eta_s:
        text += f", {format_duration(status.eta_s)} to go"
    return text
