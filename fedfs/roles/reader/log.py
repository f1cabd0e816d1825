"""Audit trail of a study: its events in order of time, for people.

Pure: from accepted messages to lines. Times are the writers' own; where two hosts' clocks disagree,
lines of different parties may be out of order, those of one party never.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Charter, Message, RosterEntry, TrackCharter, track_names
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import hidden_text
from fedfs.roles.reader.helper_status import helper_changes, sum_events
from fedfs.trust.signing import key_fingerprint


@dataclass(frozen=True)
class Event:
    """One line of the trail.

    Attributes:
        at: UTC time at the writer; "" where nobody signed it.
        who: ``coordinator``, ``aggregator`` or the site.
        what: the event, as text.
        key: the object that says so.
    """

    at: str
    who: str
    what: str
    key: str


def events(state: StudyState) -> list[Event]:
    """Return all events in order of time; objects that nobody accepted come last."""
    # Of one second, in the order in which things follow from each other.
    accepted = [*_joins(state), *_coordinator(state), *_sites(state), *_aggregator(state)]
    accepted += [_event(*event) for event in sum_events(state)]
    accepted.sort(key=lambda event: event.at)
    refused = (
        Event("", "nobody", f"is not accepted: {reason}", key)
        for key, reason in sorted(state.rejected.items())
    )
    return [*accepted, *refused]


def _event(message: Message, who: str, what: str) -> Event:
    return Event(message.created_at, who, what, message.key)


def _coordinator(state: StudyState) -> Iterator[Event]:
    before: TrackCharter | None = None
    for number in sorted(state.charters):
        charter = state.charters[number]
        what = _began(charter) if before is None else "; ".join(charter_changes(before, charter))
        yield _event(charter, "coordinator", f"charter {number}: {what or 'nothing changed'}")
        before = charter


def _began(charter: Charter) -> str:
    nnunet, schedule = charter.nnunet, charter.schedule
    if charter.evaluates:
        models = ", ".join(model.name for model in charter.given)
        return (
            f"began study {charter.study}: evaluation of {models}; coordinator "
            f"{key_fingerprint(charter.coordinator_key)}, aggregator "
            f"{key_fingerprint(charter.aggregator_key)}"
        )
    return (
        f"began study {charter.study}: {_models(charter)}, {nnunet.trainer}, mode "
        f"{charter.mode}, {schedule.rounds} rounds, {charter.strategy.name}, policy "
        f"{charter.policy.name}, updates as {charter.encoding.name}; coordinator "
        f"{key_fingerprint(charter.coordinator_key)}, aggregator "
        f"{key_fingerprint(charter.aggregator_key)}"
    )


def _models(charter: Charter) -> str:
    if len(charter.tracks) == 1:
        return f"{charter.tracks[0].configuration}, fold {charter.tracks[0].fold}"
    return f"tracks {', '.join(track_names(charter))}"


def charter_changes(before: TrackCharter, after: TrackCharter) -> Iterator[str]:
    """Yield what an amendment of the charter changed, as text."""
    if after.coordinator_key != before.coordinator_key:
        yield f"the coordinator's key is {key_fingerprint(after.coordinator_key)}"
    if after.aggregator_key != before.aggregator_key:
        since = f"from version {after.aggregator_from_version}"
        yield f"the aggregator's key is {key_fingerprint(after.aggregator_key)}, {since}"
    if after.closed_round != before.closed_round:
        yield f"the round of version {after.closed_round} closes with what can be used"
    yield from helper_changes(before.secure_sums, after.secure_sums)
    for entry in after.roster:
        old = before.entry(entry.site)
        if old != entry:
            yield _entry_change(old, entry, after.from_version(entry))
    if len(after.read_keys) > len(before.read_keys):
        yield f"models and plans are encrypted with read key {after.read_keys[-1].number} from now"


def _entry_change(old: RosterEntry | None, new: RosterEntry, version: int) -> str:
    since = f"from version {version} on"
    if old is None:
        return f"approved {new.site} with key {key_fingerprint(new.public_key)}, {since}"
    if old.public_key != new.public_key:
        return f"{new.site} has the key {key_fingerprint(new.public_key)}, {since}"
    events = {messages.ACTIVE: "takes part again", messages.PAUSED: "is paused"}
    return f"{new.site} {events.get(new.state, 'is ' + new.state)}, {since}"


def _joins(state: StudyState) -> Iterator[Event]:
    for join in state.joins.values():
        key = key_fingerprint(join.public_key)
        yield _event(join, join.site, f"asked to join with {join.n_cases} cases and key {key}")


def _sites(state: StudyState) -> Iterator[Event]:
    for fingerprint in state.fingerprints.values():
        text = f"published the fingerprint of {fingerprint.n_cases} cases"
        yield _event(fingerprint, fingerprint.site, text)
    for plan in state.site_plans.values():
        text = f"planned for itself from {plan.n_cases} cases: {len(plan.tensors)} tensors"
        yield _event(plan, plan.site, text)
    for attendance in state.attendances.values():
        yield _event(attendance, attendance.site, f"said that it is {attendance.text}")
    for score in state.evaluations.values():
        none = "no class occurs" if score.n_cases else "no scores"
        none = hidden_text(state, score) or none
        kind = "pseudo" if score.variant == "pseudo" else "mean"
        dice = none if score.mean_dice is None else f"{kind} Dice {score.mean_dice:.4f}"
        yield _event(score, score.site, f"{_scored(score, state)}: {dice}")
    for scored in state.cross_validations.values():
        text = f"scored {len(scored.scores)} configurations and ensembles on {scored.n_cases} cases"
        if scored.suppressed:
            text = f"scored configurations and ensembles: {messages.SUPPRESSED}"
        yield _event(scored, scored.site, text)
    for model in state.site_models.values():
        text = f"published its model of version {model.version} for others to score"
        yield _event(model, model.site, f"{text}, {_size(model.payload.size)}")
    for update in state.updates.values():
        yield _event(
            update,
            update.site,
            f"published an update from version {update.base_version}: {update.n_iterations} "
            f"iterations on {update.n_training_cases} cases, {_size(update.payload.size)}",
        )
    for failure in state.failures:
        yield _event(failure, failure.site, f"failed at version {failure.version}: {failure.kind}")


def _scored(score: messages.EvaluationMessage, state: StudyState) -> str:
    """Return the model that was scored, as text."""
    if score.variant == "pseudo":
        return f"evaluated version {score.version}"
    if score.variant == "full":
        return f"validated in full version {score.version}"
    others = {
        "local": "trained and validated a model of its data alone",
        "personal": f"trained version {score.version} further on its data alone, and validated it",
        "average": f"validated in full the mean of the last {state.charter.average_last} versions",
        "ema": f"validated in full the exponential average up to version {score.version}",
        "ensemble": "scored the ensemble of all sites' models of the round",
    }
    if score.variant in others:
        return others[score.variant]
    of = "" if state.charter.evaluates else "of "
    return f"scored the model {of}{score.variant.removeprefix(layout.score_of(''))}"


def _aggregator(state: StudyState) -> Iterator[Event]:
    if state.plan is not None:
        sites = ", ".join(sorted(state.plan.sites))
        text = f"planned from {state.plan.n_cases} cases of {sites}"
        yield _event(state.plan, "aggregator", text)
    for admission in state.admissions.values():
        yield _event(admission, "aggregator", f"admitted {admission.site} after the plan")
    for record in state.rounds.values():
        yield _event(record, "aggregator", _round(record))
    if state.finished is not None:
        text = f"ended the study with version {state.finished.version}"
        if state.charter.evaluates:
            text = f"closed the study with {len(state.finished.scores)} scores"
        yield _event(state.finished, "aggregator", text)
    if state.choice is not None:
        yield _event(state.choice, "aggregator", f"chose {state.choice.words}")


def _round(record: messages.RoundRecord) -> str:
    size = f"{_size(record.model.size)}, weights {record.weights_sha256[:16]}"
    if record.version == 0:
        return f"published the initial weights, version 0: {size}"
    used = ", ".join(f"{u.site} {u.weight:.3f} (from {u.base_version})" for u in record.updates)
    made = f"by {record.strategy.name} of {used}" if used else "of no update, equal to the last one"
    text = f"made version {record.version} {made}: {size}"
    for item in record.excluded:
        text += f"; did not use {item.key}: {item.reason}"
    for left in record.left_out:
        text += f"; without {left.site} since version {left.since_version}: {left.reason}"
    return text


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2f} MB"
