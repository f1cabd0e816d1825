"""Close a round that waits for what will not come, by an amendment of the charter."""

import dataclasses

from fedfs.errors import StudyError, UserError
from fedfs.protocol.messages import Charter, track_names
from fedfs.roles.coordinator.amend import Coordinator, now


def close_round(coordinator: Coordinator, track: str | None = None) -> Charter:
    """Let the newest version's round close with the usable updates there are, even with none.

    Every site trains from the version that follows, which is equal to the one before where no
    update can be used. A secure sum that was asked for is given up. With secure scores, the study
    then ends with the scores of the last version that there are.

    Args:
        coordinator: amends the charter.
        track: name of the track; None in a study of one track.

    Raises:
        UserError: the study has several tracks, or none of that name.
        StudyError: no site has answered the newest version, or nothing is waited for after the last
            one.
    """
    charter, names = coordinator.charter, track_names(coordinator.charter)
    name = track or names[0]
    if name not in names or (track is None and len(names) > 1):
        raise UserError("Name the track with --track.", hint=f"one of {', '.join(names)}")
    state, version = coordinator.state_of(name), coordinator.starts_at(now)[name]
    is_last = version >= charter.schedule.rounds
    waits_for_scores = is_last and charter.secure_scores and state.finished is None
    is_answered = not is_last and any(base == version for _, base in state.updates)
    if not (is_answered or waits_for_scores):
        raise StudyError(
            f"No round of track {name} can be closed: version {state.newest} has no update.",
            hint="fedfs status shows who is waited for; fedfs pause lets the others go on",
        )
    closed = {**charter.closed_rounds, name: version}
    rules = charter.secure_sums
    if rules is not None and version + 1 in state.sum_requests:
        rules = dataclasses.replace(rules, given_up={**rules.given_up, name: version + 1})
    return coordinator.amend(closed_rounds=closed, secure_sums=rules)
