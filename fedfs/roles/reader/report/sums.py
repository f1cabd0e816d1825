"""Secure sums of a study, for its report: helper, sets, sums, refusals, totals of scores. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedfs.protocol import score_rules, sum_rules
from fedfs.protocol.messages import ScoreTotal, SumRequest
from fedfs.protocol.state import StudyState
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.reader.evaluations import total_of
from fedfs.roles.reader.helper_status import describe_rules
from fedfs.roles.reader.model_scores import model_name

_WAITS = "waits for the helper"


@dataclass(frozen=True)
class SumRow:
    """A sum that the aggregator has asked for.

    Attributes:
        version: that is made of the updates, or that was scored.
        of: ``updates`` or ``scores``.
        sites: whose updates or scores it was asked for.
        outcome: ``made``, or why there is none, as text.
        left_out: site -> why it is not in the sum.
        n_bytes: of the helper's payload; 0 without one.
    """

    version: int
    of: str
    sites: tuple[str, ...]
    outcome: str
    left_out: Mapping[str, str]
    n_bytes: int


@dataclass(frozen=True)
class TotalRow:
    """Scores of a model of the last version over several sites.

    Attributes:
        dice: mean over the cases of all sites; None where there is no total.
        classes: class -> the same of that class.
        fault: why there is no total; "" if there is one.
    """

    model: str
    sites: tuple[str, ...]
    n_cases: int
    dice: float | None
    classes: Mapping[str, float]
    fault: str


@dataclass(frozen=True)
class SecureSumsView:
    """All about a study's secure sums.

    Attributes:
        facts: name -> value, as text: rules and the helper's key.
        rows: every sum, by version.
        refused: key of a request -> why the helper does not answer it.
        totals: scores of the newest version that has any; empty without secure scores.
        scored: that version.
    """

    facts: Mapping[str, str]
    rows: tuple[SumRow, ...]
    refused: Mapping[str, str]
    totals: tuple[TotalRow, ...]
    scored: int | None

    @property
    def made(self) -> int:
        """Number of sums of updates that were made."""
        return sum(row.of == "updates" and row.outcome == "made" for row in self.rows)

    @property
    def final_mean(self) -> float | None:
        """Mean Dice of the full validation over the cases of all sites."""
        return next((row.dice for row in self.totals if row.model == model_name("full")), None)


def view_of_sums(state: StudyState) -> SecureSumsView | None:
    """Return what a report shows of secure sums; None in a study without them."""
    if state.charter.secure_sums is None:
        return None
    helper = state.statuses.get(HELPER_SITE)
    told = helper.rejected if helper is not None else {}
    requests = {request.key for request in state.sum_requests.values()}
    scored = _last_with_totals(state)
    return SecureSumsView(
        facts={name.capitalize(): text for name, text in describe_rules(state.charter)},
        rows=tuple(
            row
            for _, request in sorted(state.sum_requests.items())
            for row in _rows(state, request)
        ),
        refused={key: why for key, why in sorted(told.items()) if key in requests},
        totals=tuple(_totals(state, scored)) if scored is not None else (),
        scored=scored,
    )


def _rows(state: StudyState, request: SumRequest) -> Iterator[SumRow]:
    version, answer = request.version, state.mask_sums.get(request.version)
    given_up = sum_rules.was_given_up(state, version)
    pending = "given up" if given_up else _WAITS
    if request.updates:
        outcome = pending if answer is None or given_up else "made"
        if answer is not None and answer.payload is None:
            outcome = "too few updates were left"
        yield SumRow(
            version,
            "updates",
            tuple(one.site for one in request.updates),
            outcome,
            answer.left_out if answer is not None else {},
            answer.payload.size if answer is not None and answer.payload is not None else 0,
        )
    if request.scores:
        sites = {site for of in request.scores.values() for site in of}
        refused = answer.scores_refused if answer is not None else {}
        made = "; ".join(f"{model_name(v)}: {why}" for v, why in sorted(refused.items())) or "made"
        left = answer.scores_left_out if answer is not None else {}
        outcome = pending if answer is None or given_up else made
        yield SumRow(version - 1, "scores", tuple(sorted(sites)), outcome, left, 0)


def _last_with_totals(state: StudyState) -> int | None:
    variants = (score_rules.PSEUDO, "full")
    found = (v for v in state.models if any(total_of(state, v, one) for one in variants))
    return max(found, default=None)


def _totals(state: StudyState, version: int) -> Iterator[TotalRow]:
    for variant in score_rules.totalled(state.charter, version):
        total = total_of(state, version, variant)
        if total is not None:
            yield _total(variant, total)


def _total(variant: str, total: ScoreTotal) -> TotalRow:
    return TotalRow(
        model="pseudo Dice" if variant == score_rules.PSEUDO else model_name(variant),
        sites=total.sites,
        n_cases=total.n_cases,
        dice=total.mean.mean if total.mean.n else None,
        classes={name: one.mean for name, one in total.classes.items()},
        fault=total.fault,
    )
