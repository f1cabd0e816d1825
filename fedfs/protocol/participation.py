"""Sites that take part, that are away, and that were left out of a version."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import ADMITTED, ASYM, FAILED, FFE, MODES, PAUSED, Charter
from fedfs.protocol.state import StudyState, newest_charter


def has_scored(state: StudyState, site: str, of: str) -> bool:
    """Whether a site has scored another one's model of the last version; its own needs no score."""
    return of == site or (site, state.newest, layout.score_of(of)) in state.evaluations


def models_to_score(state: StudyState, charter: Charter, site: str) -> list[str]:
    """Return the other sites whose models ``site`` scores: those that made the last version."""
    record = state.rounds.get(state.newest)
    if not charter.cross_evaluates or record is None:
        return []
    active = set(charter.active_sites)
    return sorted({u.site for u in record.updates if u.site in active and u.site != site})


def participants(state: StudyState) -> tuple[str, ...]:
    """Return the sites that take part and are not away, sorted."""
    return tuple(
        site for site in known_charter(state).active_sites
        if state.is_admitted(site) and not state.is_away(site)
    )  # fmt: skip


def is_over(state: StudyState, sites: Iterable[str]) -> bool:
    """Whether the study is closed, and these sites have scored all that they should."""
    return is_void(state) or (
        state.finished is not None
        and all(
            state.is_validated(site, state.newest)
            and all(
                has_scored(state, site, of)
                for of in models_to_score(state, known_charter(state), site)
            )
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
    if known_charter(state).mode == ASYM:
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
    paused, out = paused_sites(known_charter(state)), {}
    for site in believed_sites(state):
        if site in used or not state.is_admitted(site):
            continue
        update = state.updates.get((site, version))
        if update is not None and update.key in state.unusable:
            out[site] = f"its update was refused: {state.unusable[update.key]}"
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
    return tuple(
        site for site in believed_sites(state) if (site, state.newest) not in state.updates
    )


def believed_sites(state: StudyState) -> tuple[str, ...]:
    """Return the sites whose messages count, sorted."""
    roster = known_charter(state).roster
    return tuple(sorted(entry.site for entry in roster if entry.state in ADMITTED))


def paused_sites(charter: Charter) -> tuple[str, ...]:
    """Return the sites that the coordinator has paused, sorted."""
    return tuple(sorted(entry.site for entry in charter.roster if entry.state == PAUSED))


def failure_of_aggregator(state: StudyState) -> str:
    """Return in words that the aggregator has stopped with an error; "" if it has not."""
    status = state.statuses.get("")
    return f"; it failed: {status.error}" if status and status.step == FAILED else ""


def known_charter(state: StudyState) -> Charter:
    """Return the charter in force.

    Raises:
        StudyError: its mode is unknown to this version of fedfs.
    """
    charter = newest_charter(state)
    if charter.mode not in MODES:
        raise StudyError(
            f"the charter's mode {charter.mode!r} is unknown to this version of fedfs",
            hint=f"it knows {', '.join(MODES)}; upgrade fedfs",
        )
    return charter
