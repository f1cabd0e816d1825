"""Sites that take part, that are away, and that were left out of a version."""

from collections.abc import Collection, Iterable, Mapping

from fedfs.protocol import layout
from fedfs.protocol.messages import ADMITTED, ASYM, FAILED, FFE, PAUSED, Charter
from fedfs.protocol.state import StudyState


def has_scored(state: StudyState, site: str, of: str) -> bool:
    """Return whether a site has scored another one's last model; its own needs no score.

    Or a given model, which no version is about: its scores have the version 0. Or the ensemble, of
    which another one's model is a part.
    """
    is_own = of == site and not state.charter.evaluates
    variant = "ensemble" if state.charter.ensemble else layout.score_of(of)
    return is_own or (site, max(state.newest, 0), variant) in state.evaluations


def has_scored_averages(state: StudyState, site: str) -> bool:
    """Return whether a site has validated the averages of versions that the charter asks for."""
    return all((site, state.newest, v) in state.evaluations for v in state.charter.averages)


def models_to_score(state: StudyState, site: str) -> list[str]:
    """Return the other sites whose models ``site`` scores: those that made the last version.

    Or the given models, in the order in which the charter has them.
    """
    if state.charter.evaluates:
        return [model.name for model in state.charter.given]
    record = state.rounds.get(state.newest)
    if not state.charter.cross_evaluates or record is None:
        return []
    active = set(state.charter.active_sites)
    # A site does not see the attendances of others.
    active -= set(state.finished.away if state.finished is not None else ())
    return sorted({u.site for u in record.updates if u.site in active and u.site != site})


def lacks_ensemble_score(state: StudyState, site: str) -> bool:
    """Return whether a closed study waits for a site's scores of its ensemble."""
    end = state.finished
    return bool(
        end is not None and end.members and (site, end.version, "ensemble") not in state.evaluations
    )


def unscored(state: StudyState, site: str) -> list[str]:
    """Return the models that ``site`` is to score and has not scored yet."""
    return [of for of in models_to_score(state, site) if not has_scored(state, site, of)]


def participants(state: StudyState) -> tuple[str, ...]:
    """Return the sites that take part and are not away, sorted."""
    return tuple(
        site
        for site in state.charter.active_sites
        if state.is_admitted(site) and not state.is_away(site)
    )


def is_over(state: StudyState, sites: Iterable[str]) -> bool:
    """Return whether the study is closed, and these sites have scored all that they should."""
    return lacks_configuration(state) or (
        state.finished is not None
        and all(
            (state.charter.evaluates or state.is_validated(site, state.newest))
            and not unscored(state, site)
            and has_scored_averages(state, site)
            and not lacks_ensemble_score(state, site)
            for site in sites
        )
    )


def planned_configurations(state: StudyState) -> tuple[str, ...]:
    """Return the configurations of all tracks, once there is a plan those that it has.

    Who cannot decrypt the plan learns it when the best of them is chosen.
    """
    charter = state.charter
    made: Collection[str] = ()
    if state.plan is not None and charter.mode == FFE:
        made = state.plan.plans.get("configurations", ())
    if not made and state.choice is not None:
        made = state.choice.dice.keys()
    return tuple(name for name in charter.configurations if not made or name in made)


def lacks_configuration(state: StudyState) -> bool:
    """Return whether nnU-Net plans no such configuration for the data, so that no model is made."""
    return state.charter.configuration not in planned_configurations(state)


def active_tracks(tracks: Mapping[str, StudyState]) -> dict[str, StudyState]:
    """Return the tracks whose model is made."""
    return {name: state for name, state in tracks.items() if not lacks_configuration(state)}


def last_weights(tracks: Mapping[str, StudyState]) -> dict[str, str]:
    """Return track -> hash of the weights of its newest version."""
    return {name: state.models[state.newest].weights_sha256 for name, state in tracks.items()}


def announcement(state: StudyState, site: str) -> str:
    """Return the key under which a site tells what planning needs to know of it."""
    if state.charter.mode == ASYM:
        return layout.site_plan(site)
    return layout.fingerprint(site)


def waited_for(state: StudyState, version: int) -> tuple[str, ...]:
    """Return the sites that have not answered ``version`` with an update yet and are not away."""
    return tuple(site for site in participants(state) if (site, version) not in state.updates)


def left_out(
    state: StudyState, version: int, used: Collection[str], refused: Mapping[str, str]
) -> dict[str, str]:
    """Return site -> why it has no update in the version after ``version``.

    Args:
        state: what the aggregator accepted.
        version: the newest version.
        used: sites whose updates went in.
        refused: key of an update -> why it cannot be used.
    """
    paused, out = paused_sites(state.charter), {}
    for site in believed_sites(state):
        if site in used or not state.is_admitted(site):
            continue
        update = state.updates.get((site, version))
        if update is not None and update.key in refused:
            out[site] = f"its update was refused: {refused[update.key]}"
        elif site in paused:
            out[site] = "paused by the coordinator"
        elif state.is_away(site):
            attendance = state.attendances[site]
            out[site] = attendance.text
        else:
            out[site] = f"no update from version {version} in time"
    return out


def refusals(state: StudyState, site: str) -> dict[str, str]:
    """Return key -> why the aggregator does not accept it, of what ``site`` published."""
    aggregator = state.statuses.get("")
    reasons = {**(aggregator.rejected if aggregator else {}), **state.refused}
    prefix = layout.site_prefix(site)
    return {key: reason for key, reason in sorted(reasons.items()) if key.startswith(prefix)}


def answerable(state: StudyState) -> tuple[str, ...]:
    """Return the sites on the roster from which something new can come that matters now."""
    return tuple(
        site for site in believed_sites(state) if (site, state.newest) not in state.updates
    )


def believed_sites(state: StudyState) -> tuple[str, ...]:
    """Return the sites whose messages count, sorted."""
    roster = state.charter.roster
    return tuple(sorted(entry.site for entry in roster if entry.state in ADMITTED))


def paused_sites(charter: Charter) -> tuple[str, ...]:
    """Return the sites that the coordinator has paused, sorted."""
    return tuple(sorted(entry.site for entry in charter.roster if entry.state == PAUSED))


def failure_of_aggregator(state: StudyState) -> str:
    """Return the end of a sentence on the aggregator's last error; "" if it has not failed."""
    status = state.statuses.get("")
    return f"; it failed: {status.error}" if status and status.step == FAILED else ""
