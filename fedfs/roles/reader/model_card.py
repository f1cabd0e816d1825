"""The model card of an exported model: Markdown with the headings of Mitchell et al. (2019).

It is made from accepted messages, and is the same for the same model, whenever it is exported.

Rules:
 * Nothing is made up. The interval of a site is of its mean over cases, by Student's t. Where a
   site has published no spread there is none; of several folds the lowest and the highest mean are
   shown then.
 * What fedfs cannot know is marked as to be filled in.

M. Mitchell et al.: Model Cards for Model Reporting. FAT* 2019, doi:10.1145/3287560.3287596.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import fedfs
from fedfs.protocol.messages import ASYM, EvaluationMessage, TrackCharter
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import is_credible, scores_of, weighted_mean
from fedfs.roles.reader.model_kind import VERSION, ModelKind
from fedfs.roles.reader.model_scores import merged_dice
from fedfs.roles.reader.report.comparison import pool_scores
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.format import format_p, format_spread
from fedfs.roles.reader.templates import templates_of
from fedfs.roles.reader.trained_part import describe_part
from fedfs.trust.signing import key_fingerprint

_TRAINING = ("Each round", "Averaging", "Updates travel as", "Encryption")


@dataclass(frozen=True)
class CardFold:
    """A fold of the model that the card is about.

    Attributes:
        state: accepted messages of its track.
        version: global version.
        weights_sha256: hash of the weights that were exported.
        kind: what they are.
    """

    state: StudyState
    version: int
    weights_sha256: str
    kind: ModelKind = VERSION

    @property
    def name(self) -> str:
        """A number, or ``all``."""
        return self.state.charter.fold

    @property
    def rounds(self) -> int:
        """Versions that the study was to make."""
        return self.state.charter.schedule.rounds

    @property
    def made(self) -> str | None:
        """UTC time of the version."""
        record = self.state.rounds.get(self.version)
        return record.created_at if record else None


@dataclass(frozen=True)
class _Row:
    """Part of one site in the fold."""

    site: str
    n_cases: int | None
    n_training_cases: int | None
    n_updates: int


@dataclass(frozen=True)
class _Score:
    """Scores of the model at one site, or at all."""

    site: str
    n_cases: int
    mean_dice: float | None
    interval: str
    dice: Mapping[str, float | None]
    hd95_mm: Mapping[str, float | None]


def model_card(
    folds: Sequence[CardFold], *, folder: str, commands: Sequence[str], site: str | None = None
) -> str:
    """Return the card of a model folder.

    Args:
        folds: of the folder, at least one; they have study and configuration in common.
        folder: name of the model folder.
        commands: how to predict with it.
        site: whose own model this is; None for the global model.
    """
    charter = folds[0].state.charter
    kind = folds[0].kind
    of_full = _scores_of(folds, kind.variant, site)
    of_pseudo = {} if kind.text else _scores_of(folds, "pseudo", site)
    messages = of_full or of_pseudo
    classes = list(
        dict.fromkeys(name for of in messages.values() for s in of for name in s.classes)
    )
    scores = _score_rows(messages, classes)
    return (
        templates_of("fedfs.roles.reader")
        .get_template("model_card.md.j2")
        .render(
            title=f"{charter.name}, {charter.configuration}" + (f", {site}" if site else ""),
            details=_details(folds, folder, site),
            folds=folds,
            site=site,
            own=_own_part(folds[0]),
            classes=[name for name in charter.dataset.labels if name != "background"],
            channels=list(charter.dataset.channel_names.values()),
            commands=commands,
            data=_data(folds[0]),
            training=_training(folds[0]),
            is_full=bool(of_full),
            scores=scores,
            over_sites=_over_sites(messages),
            score_classes=classes,
            has_distances=any(mm is not None for row in scores for mm in row.hd95_mm.values()),
            coordinator_key=key_fingerprint(charter.coordinator_key),
        )
        + "\n"
    )


def _own_part(fold: CardFold) -> str:
    """Return what a site's own model has that others have not, as the end of a sentence."""
    charter = fold.state.charter
    if fold.kind.variant == "personal":
        return ", trained further on its own images alone"
    if charter.mode == ASYM:
        return ": only the tensors that fit are shared with other sites"
    return ", with normalisation layers of its own" if charter.keep_local else ""


def _details(folds: Sequence[CardFold], folder: str, site: str | None) -> dict[str, str]:
    state = folds[0].state
    charter, nnunet = state.charter, state.charter.nnunet
    versions = {**nnunet.versions, **(state.plan.versions if state.plan else {})}
    entry = charter.entry(site) if site else None
    return {
        "Model": folder,
        "Study": charter.study,
        "Track": ", ".join(fold.state.charter.track.name for fold in folds),
        **({"Weights": folds[0].kind.text} if folds[0].kind.text else {}),
        "Configuration": f"{charter.configuration}, {nnunet.trainer}, {nnunet.planner}",
        "Coordinator's key": key_fingerprint(charter.coordinator_key),
        "Aggregator's key": key_fingerprint(charter.aggregator_key),
        **({f"Key of {site}": key_fingerprint(entry.public_key)} if entry else {}),
        "Charter": f"number {charter.number}, SHA-256 {state.digests[charter.key]}",
        "Software of the study": ", ".join(f"{n} {v}" for n, v in sorted(versions.items())),
        "Exported by": f"fedfs {fedfs.__version__}",
    }


def _data(fold: CardFold) -> list[_Row]:
    state = fold.state
    used = [one for v in range(fold.version + 1) if v in state.rounds
            for one in state.rounds[v].updates]  # fmt: skip
    names = {one.site for one in used} | set(state.plan.sites if state.plan else ())
    rows = []
    for name in sorted(names):
        of_site = [one for one in used if one.site == name]
        n_training_cases = max((one.n_training_cases for one in of_site), default=None)
        rows.append(_Row(name, state.n_cases(name), n_training_cases, len(of_site)))
    return rows


def _training(fold: CardFold) -> dict[str, str]:
    charter, report = fold.state.charter, collect(fold.state, {})
    schedule = charter.schedule
    steps = fold.version * schedule.local_epochs * schedule.iterations_per_epoch
    return {
        "Method": "asymmetric federated averaging: each site has its own plan"
        if charter.mode == ASYM
        else "federated averaging with one plan for all sites",
        **({"Stays at each site": "normalisation layers"} if charter.keep_local else {}),
        **({"Trained": describe_part(charter)} if charter.train_only else {}),
        "Rounds": f"{fold.version}: at most {steps:,} iterations at each site",
        **{name: report.facts[name] for name in _TRAINING},
        "Versions travel as": charter.model_encoding.name,
        "Began with": _beginning(charter),
        **report.plan,
    }


def _beginning(charter: TrackCharter) -> str:
    if charter.continues:
        return f"version {charter.continues.version} of study {charter.continues.study}"
    if charter.pretrained:
        return "pretrained weights that the coordinator gave"
    return f"random weights of seed {charter.seed}"


_Messages = Mapping[str, list[EvaluationMessage]]


def _scores_of(folds: Sequence[CardFold], kind: str, only: str | None) -> _Messages:
    """Return site -> its scores of each fold's version."""
    found: dict[str, list[EvaluationMessage]] = {}
    for fold in folds:
        for score in scores_of(fold.state, fold.version, kind):
            if only in (None, score.site) and score.n_cases and is_credible(fold.state, score):
                found.setdefault(score.site, []).append(score)
    return dict(sorted(found.items()))


def _score_rows(messages: _Messages, classes: Sequence[str]) -> list[_Score]:
    rows = [_score(site, of, classes, _of_folds(of)) for site, of in messages.items()]
    if len(rows) > 1:
        every = [one for of in messages.values() for one in of]
        between = _range((row.mean_dice for row in rows), "sites")
        rows.append(_score("all, weighted by cases", every, classes, between))
    return rows


def _score(
    name: str, scores: Sequence[EvaluationMessage], classes: Sequence[str], interval: str
) -> _Score:
    of_class = {c: [(s.n_cases, s.classes[c]) for s in scores if c in s.classes] for c in classes}
    return _Score(
        name,
        sum(score.n_cases for score in scores),
        weighted_mean((score.n_cases, score.mean_dice) for score in scores),
        interval,
        {c: weighted_mean((n, one.dice) for n, one in found) for c, found in of_class.items()},
        {c: weighted_mean((n, one.hd95_mm) for n, one in found) for c, found in of_class.items()},
    )


def _over_sites(messages: _Messages) -> str:
    """Return a sentence on the mean over sites and on how much they differ; "" of one site."""
    known = [score for of in messages.values() if (score := merged_dice(of))]
    found = pool_scores(known)
    if found is None or found.low is None or found.high is None:
        return ""
    text = (
        f"Random-effects mean over {found.n_sites} sites: {found.mean:.3f} "
        f"(95 % interval {found.low:.3f} to {found.high:.3f}); {format_spread(found)}"
    )
    return text + (f", p of Cochran's Q {format_p(found.q_p)}." if found.q_p is not None else ".")


def _of_folds(scores: Sequence[EvaluationMessage]) -> str:
    known = merged_dice(scores)
    if known is not None and known.low is not None:
        return f"{known.low:.3f} to {known.high:.3f}"
    if len(scores) > 1:
        return _range((score.mean_dice for score in scores), "folds")
    return f"no interval: only the mean of {scores[0].n_cases} cases is published"


def _range(values: Iterable[float | None], what: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{min(known):.3f} to {max(known):.3f}, range of {len(known)} {what}"
