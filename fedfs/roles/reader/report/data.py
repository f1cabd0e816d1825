"""Content of a report, made from accepted messages. Pure; columns by version stay small.

Rules:
 * A number that is not known is None, never 0.
 * Aggregates only: what is here has been on the store before.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, EvaluationMessage, TrackCharter
from fedfs.protocol.state import StudyState
from fedfs.roles.reader import privacy
from fedfs.roles.reader.evaluations import last_scored, mean_dice
from fedfs.roles.reader.given_models import facts_of
from fedfs.roles.reader.report import columns
from fedfs.roles.reader.report.columns import Column, shorten
from fedfs.roles.reader.report.comparison import (
    Comparison,
    LocalRow,
    MatrixRow,
    compare,
    local_rows,
    matrix,
)
from fedfs.roles.reader.report.plan_facts import plan_facts
from fedfs.roles.reader.report.sums import SecureSumsView, view_of_sums
from fedfs.roles.reader.status import SiteStatus, StudyStatus, summarize
from fedfs.roles.reader.units import format_count
from fedfs.trust.signing import key_fingerprint

_OF_TRAINING = ("Version", "nnU-Net", "Each round", "Averaging", "Updates travel as")
"""Facts that a study which trains nothing does not have."""


@dataclass(frozen=True)
class SiteRow:
    """One site: who it is, what it gave, how the newest version does there.

    Attributes:
        final: class -> Dice of nnU-Net's full validation of the last version; empty before.
        final_hd95_mm: class -> mean HD95 of the same.
        first_dice, last_dice: mean pseudo Dice of the first and newest version evaluated.
        n_updates: updates that went into versions.
    """

    site: str
    state: str
    key: str
    n_cases: int | None
    coverage: float | None
    n_updates: int
    n_bytes: int
    first_dice: float | None
    last_dice: float | None
    final_mean: float | None
    final: Mapping[str, float | None]
    final_hd95_mm: Mapping[str, float | None]
    n_validation_cases: int | None
    left_out: str
    activity: str


@dataclass(frozen=True)
class Exclusion:
    """Something, or somebody, that did not go into a version."""

    version: int
    site: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        mode: of the charter.
        facts: name -> value, as text.
        versions: 0 to the newest.
        published: POSIX-like UTC text of each version's record.
        dice: site -> mean pseudo Dice by version.
        mean_dice: over sites, weighted by validation cases, by version.
        train_loss: site -> loss of the update trained from that version.
        weights: site -> weight in that version; None where nothing of it went in.
        lags: site -> how many versions its update was behind.
        n_bytes: bytes that a version and its updates took, by version.
        seconds: phase -> seconds, by version; training is the median over sites.
        classes: names of classes in final scores.
        plan: name -> value, as text.
        disclosures: kinds of things that have left sites, with their readers.
        readers: sentences: who can decrypt what.
        audit: name -> value, as text.
        rejected: key -> reason, of what nobody accepts.
        comparison: of models at sites, with intervals.
        local: of sites that have also trained alone.
        matrix: models at sites; see :mod:`fedfs.roles.reader.report.comparison`.
        sums: secure sums, and with secure scores totals of scores; None without.
    """

    mode: str
    facts: Mapping[str, str]
    versions: tuple[int, ...]
    published: tuple[str, ...]
    sites: tuple[SiteRow, ...]
    dice: Mapping[str, Column]
    mean_dice: Column
    train_loss: Mapping[str, Column]
    weights: Mapping[str, Column]
    lags: Mapping[str, tuple[int | None, ...]]
    exclusions: tuple[Exclusion, ...]
    n_bytes: tuple[int, ...]
    seconds: Mapping[str, Column]
    classes: tuple[str, ...]
    plan: Mapping[str, str]
    disclosures: tuple[tuple[str, str, str], ...]
    readers: tuple[str, ...]
    audit: Mapping[str, str]
    rejected: Mapping[str, str]
    comparison: Comparison
    local: tuple[LocalRow, ...]
    matrix: tuple[MatrixRow, ...]
    sums: SecureSumsView | None

    @property
    def total_classes(self) -> list[str]:
        """Names of classes in totals of scores."""
        rows = self.sums.totals if self.sums is not None else ()
        return sorted({name for row in rows for name in row.classes})


def collect(state: StudyState, sizes: Mapping[str, int], *, seen_by: str | None = None) -> Report:
    """Return a study's report.

    Args:
        state: what was accepted from the whole store.
        sizes: key -> bytes of all objects.
        seen_by: as of :func:`fedfs.roles.reader.status.summarize`.

    Raises:
        StudyError: the store holds no study that can be trusted.
    """
    charter = state.charter
    versions = tuple(range(state.newest + 1))
    names = tuple(sorted({e.site for e in charter.roster} | {site for site, _ in state.updates}))
    final = _final(state)
    view = summarize(state, seen_by=seen_by)
    views = {row.site: row for row in view.sites}
    return Report(
        mode=charter.mode,
        facts=_facts(view, state, charter),
        versions=versions,
        published=tuple(state.rounds[v].created_at for v in versions if v in state.rounds),
        sites=tuple(_site(state, views[name], final.get(name), sizes) for name in names),
        dice={name: columns.dice(state, name, versions) for name in names},
        mean_dice=tuple(shorten(mean_dice(state, version)) for version in versions),
        train_loss={name: columns.losses(state, name, versions) for name in names},
        weights={name: columns.weights(state, name, versions) for name in names},
        lags={name: columns.lags(state, name, versions) for name in names},
        exclusions=tuple(_exclusions(state)),
        n_bytes=tuple(columns.n_bytes(state, version) for version in versions),
        seconds=columns.seconds(state, versions),
        classes=tuple(sorted({name for score in final.values() for name in score.classes})),
        plan=plan_facts(state.plan, charter),
        disclosures=_disclosures(state, names, sizes),
        readers=tuple(privacy.readers(charter)),
        audit=_audit(state, charter),
        rejected=dict(sorted(state.rejected.items())),
        comparison=compare(state),
        local=local_rows(state),
        matrix=matrix(state, final),
        sums=view_of_sums(state),
    )


def _facts(view: StudyStatus, state: StudyState, charter: TrackCharter) -> dict[str, str]:
    schedule, nnunet = charter.schedule, charter.nnunet
    cases = sum(state.n_cases(site) or 0 for site in charter.active_sites)
    what = "case" if charter.evaluates else "training case"
    facts = {
        "Study": charter.study,
        "Phase": view.phase
        + (f", waits for {', '.join(view.waiting_for)}" if view.waiting_for else ""),
        "Version": f"{state.newest} of {schedule.rounds}" if state.newest >= 0 else "none yet",
        "Sites": f"{len(charter.active_sites)} with {format_count(cases, what)}",
        "Began": state.charters[1].created_at,
        "Ended": state.finished.created_at if state.finished else "not yet",
        "Dataset": f"{charter.dataset.name}: {', '.join(charter.dataset.channel_names.values())}; "
        f"{', '.join(name for name in charter.dataset.labels if name != 'background')}",
        "nnU-Net": f"{nnunet.trainer}, {charter.configuration}, fold {charter.fold}, nnunetv2 "
        f"{nnunet.versions.get('nnunetv2', '?')}",
        "Each round": f"{format_count(schedule.local_epochs, 'epoch')} of "
        f"{format_count(schedule.iterations_per_epoch, 'iteration')} at each site",
        "Averaging": f"{charter.strategy.name}, weighted by {charter.weighting.name}, "
        f"policy {charter.policy.name}",
        "Updates travel as": charter.encoding.name,
        **({"Trains only": view.trains} if view.trains else {}),
        "Encryption": charter.encryption or "none",
        **({"Best of the study": view.best} if view.best else {}),
        "Coordinator's key": key_fingerprint(charter.coordinator_key),
    }
    if charter.evaluates:
        facts = {name: text for name, text in facts.items() if name not in _OF_TRAINING}
        return {**facts, **facts_of(state)}
    return facts


def _final(state: StudyState) -> dict[str, EvaluationMessage]:
    """Return site -> nnU-Net's full validation of the newest version that has one."""
    last = last_scored(state)
    return {
        site: score
        for (site, version, variant), score in state.evaluations.items()
        if (version, variant) == (last, "full")
    }


def _site(
    state: StudyState, view: SiteStatus, score: EvaluationMessage | None, sizes: Mapping[str, int]
) -> SiteRow:
    name, entry = view.site, state.charter.entry(view.site)
    scores = [
        (version, score.mean_dice)
        for (site, version, variant), score in state.evaluations.items()
        if site == name and variant == "pseudo"
    ]
    return SiteRow(
        site=name,
        state=view.state,
        key=key_fingerprint(entry.public_key) if entry else "",
        n_cases=view.n_cases,
        coverage=view.coverage,
        n_updates=sum(u.site == name for r in state.rounds.values() for u in r.updates),
        n_bytes=sum(n for key, n in sizes.items() if key.startswith(layout.site_prefix(name))),
        first_dice=shorten(min(scores, default=(0, None))[1]),
        last_dice=shorten(max(scores, default=(0, None))[1]),
        final_mean=shorten(score.mean_dice) if score else None,
        final={n: shorten(c.dice) for n, c in score.classes.items()} if score else {},
        final_hd95_mm={n: shorten(c.hd95_mm) for n, c in score.classes.items()} if score else {},
        n_validation_cases=score.n_cases if score else None,
        left_out=view.left_out,
        activity=view.activity,
    )


def _exclusions(state: StudyState) -> Iterator[Exclusion]:
    for version, record in sorted(state.rounds.items()):
        for item in record.excluded:
            yield Exclusion(version, item.site, f"its update was refused: {item.reason}")
        for left in record.left_out:
            yield Exclusion(version, left.site, left.reason)


def _disclosures(
    state: StudyState, sites: tuple[str, ...], sizes: Mapping[str, int]
) -> tuple[tuple[str, str, str], ...]:
    """Return kinds of disclosures, each once: name, meaning, readers."""
    kinds: dict[str, tuple[str, str, str]] = {}
    for site in sites:
        with contextlib.suppress(StudyError):  # nothing has left it
            for item in privacy.disclosures(state, site, sizes):
                kinds.setdefault(item.what, (item.what, item.tells, item.readers))
    return tuple(kinds.values())


def _audit(state: StudyState, charter: Charter) -> dict[str, str]:
    n_used = sum(len(record.updates) for record in state.rounds.values())
    audit = {
        "Messages with valid signatures": str(len(state.digests)),
        "Objects that nobody accepts": str(len(state.rejected)),
        "Charter": f"number {charter.number}, each signed and chained to the one before",
    }
    if charter.evaluates:
        n_scores = str(len(state.finished.scores)) if state.finished else "not closed yet"
        return {**audit, "Scores that the study was closed with": n_scores}
    versions = f"0 to {state.newest}, each with one record" if state.models else "none yet"
    return {**audit, "Updates used": str(n_used), "Versions": versions}
