"""Disclosures: all that has left a site so far, and who can read it.

Pure: from accepted messages. It lists what is on the store; what somebody has copied from there, or
carries on a stick, nobody can take back.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import FFE, SUPPRESSED, Charter, EvaluationMessage
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import IN_TOTALS, hidden_text
from fedfs.roles.reader.fingerprint_disclosure import fingerprint_amount, fingerprint_tells
from fedfs.roles.reader.model_scores import model_name
from fedfs.trust.recipients import AGE

EVERYBODY = "whoever can read the store"


@dataclass(frozen=True)
class Disclosure:
    """One kind of thing that has left a site.

    Attributes:
        what: its kind.
        amount: how much of it, as text.
        tells: what it tells about the site's data.
        readers: who can read it.
        since: UTC time of the first.
        n_bytes: on the store.
    """

    what: str
    amount: str
    tells: str
    readers: str
    since: str
    n_bytes: int


_CASES = "scores of single cases"


def never_left(disclosed: Iterable[Disclosure]) -> tuple[str, ...]:
    """Return what has not left a site that disclosed this; most has no field in any message."""
    return (
        "images and segmentations",
        "names of cases, files, folders and patients",
        *(() if any(item.what == _CASES for item in disclosed) else (_CASES,)),
        "optimizer states, checkpoints and logs",
        "private keys",
    )


def disclosures(state: StudyState, site: str, sizes: Mapping[str, int]) -> list[Disclosure]:
    """Return all that has left a site.

    Args:
        state: accepted messages, as the site sees them or as anybody does.
        site: its name.
        sizes: key -> bytes of all objects on the store.

    Raises:
        StudyError: nothing of that site is on the store, or no study.
    """
    own = list(_of_site(state, site, _bytes_by_kind(sizes, site)))
    if not own:
        raise StudyError(
            f"Nothing of site {site!r} is on the store.",
            hint=f"sites: {', '.join(sorted(state.joins)) or 'none'}",
        )
    return [*own, *_through_others(state, site)]


def _of_site(state: StudyState, site: str, n_bytes: Counter[str]) -> Iterator[Disclosure]:
    charter = state.charter
    aggregator = _only("the aggregator") if charter.encryption == AGE else EVERYBODY
    join = state.joins.get(site)
    if join is not None:
        versions = ", ".join(f"{name} {v}" for name, v in sorted(join.versions.items()))
        yield Disclosure(
            "join request", f"{join.n_cases} cases, {join.file_ending}, {versions}",
            "how many cases there are, the software and its versions",
            EVERYBODY, join.created_at, n_bytes["join"],
        )  # fmt: skip
    fingerprint = state.fingerprints.get(site)
    if fingerprint is not None:
        yield Disclosure(
            "fingerprint", fingerprint_amount(charter, fingerprint),
            fingerprint_tells(charter, fingerprint), aggregator, fingerprint.created_at,
            n_bytes["fingerprint"],
        )  # fmt: skip
    plan = state.site_plans.get(site)
    if plan is not None:
        yield Disclosure(
            "plan of its own", f"architecture of {plan.n_cases} cases, {len(plan.tensors)} tensors",
            "typical spacing and size of its images, its graphics card's memory",
            aggregator, plan.created_at, n_bytes["site-plan"],
        )  # fmt: skip
    yield from _updates(state, site, n_bytes)
    yield from _scores(state, site, n_bytes)
    scored = state.cross_validations.get(site)
    if scored is not None:
        yield Disclosure(
            "cross-validation", SUPPRESSED if scored.suppressed else
            f"sums of Dice over {scored.n_cases} cases, by class, of "
            f"{len(scored.scores)} configurations and ensembles with and without postprocessing",
            "how well each works there; nothing of a single case, unless there is only one",
            EVERYBODY, scored.created_at, n_bytes["cross-validation"],
        )  # fmt: skip
    model = state.site_models.get(site)
    if model is not None:
        yield Disclosure(
            "its model", *_model_tells(charter),
            _only("the roster") if model.payload.is_sealed else EVERYBODY, model.created_at,
            n_bytes["site-model"] + n_bytes["site-model-payload"],
        )  # fmt: skip
    failures = [failure for failure in state.failures if failure.site == site]
    if failures:
        kinds = ", ".join(sorted({failure.kind for failure in failures}))
        yield Disclosure(
            "failures", f"{len(failures)}: {kinds}", "that something failed, and of which kind",
            EVERYBODY, min(f.created_at for f in failures), n_bytes["failure"],
        )  # fmt: skip
    attendance = state.attendances.get(site)
    if attendance is not None:
        yield Disclosure(
            "attendance", attendance.text,
            "that it paused, left or came back, and the reason it gave",
            EVERYBODY, attendance.created_at, n_bytes["attendance"],
        )  # fmt: skip
    if n_bytes["status"]:
        status = state.statuses.get(site)
        yield Disclosure(
            "statuses", "the newest two; older ones are deleted",
            "what it does, how fast, when it is on", EVERYBODY,
            status.created_at if status else "", n_bytes["status"],
        )  # fmt: skip


def _model_tells(charter: Charter) -> tuple[str, str]:
    """Return what a site's published model is, and what it tells."""
    if charter.ensemble:
        return "the network that its update says, as a member of the ensemble", "as updates do"
    tells = (
        "as updates do, the part included that it otherwise shares with nobody; typical "
        "intensities, spacing and size of its images"
    )
    return "its whole network and its plan, for other sites to score", tells


def _updates(state: StudyState, site: str, n_bytes: Counter[str]) -> Iterator[Disclosure]:
    updates = [update for (of, _), update in sorted(state.updates.items()) if of == site]
    if not updates:
        return
    iterations = sum(update.n_iterations for update in updates)
    without = ", without normalisation layers" if state.charter.withholds else ""
    if state.charter.train_only is not None:
        without += f", of {', '.join(state.charter.train_only.patterns)} alone"
    sealed = all(update.payload.is_sealed for update in updates)
    yield Disclosure(
        "updates",
        f"{len(updates)}, from version {updates[0].base_version} to {updates[-1].base_version}, "
        f"as {updates[0].encoding}{without}: {iterations} iterations on "
        f"{updates[-1].n_training_cases} cases",
        _MASKED if state.charter.secure_sums is not None else _TRAINED,
        _only("the aggregator") if sealed else EVERYBODY,
        updates[0].created_at,
        n_bytes["update-payload"],
    )
    metrics = sorted({name for update in updates for name in update.metrics})
    yield Disclosure(
        "about updates",
        f"{len(updates)} times: {', '.join(('cases', 'iterations', *metrics, 'seconds'))}",
        "how well training goes, how fast its computer is", EVERYBODY, updates[0].created_at,
        n_bytes["update"],
    )  # fmt: skip


def _scores(state: StudyState, site: str, n_bytes: Counter[str]) -> Iterator[Disclosure]:
    found = [score for (of, _, _), score in sorted(state.evaluations.items()) if of == site]
    scores = [score for score in found if not hidden_text(state, score)]
    for why, n in Counter(filter(None, (hidden_text(state, one) for one in found))).items():
        if why == IN_TOTALS:
            yield Disclosure(
                "masked scores", f"{n} times, sums of Dice and counts of cases by class", _MASKED,
                _only("the aggregator"), found[0].created_at, n_bytes["evaluation"],
            )  # fmt: skip
            continue
        yield Disclosure(
            "no scores", f"{n} times {why}",
            "that it has scored a model, and nothing else", EVERYBODY, found[0].created_at,
            0 if scores or state.charter.secure_scores else n_bytes["evaluation"],
        )  # fmt: skip
    if not scores:
        return
    cases = "cases" if state.charter.evaluates else "validation cases"
    classes = sorted({name for score in scores for name in score.classes})
    yield Disclosure(
        "scores", f"{len(scores)} times, of {scores[0].n_cases} {cases} together",
        f"mean Dice and counts of voxels of {', '.join(classes)}; none of a single case, "
        "unless there is only one validation case",
        EVERYBODY, min(score.created_at for score in scores), n_bytes["evaluation"],
    )  # fmt: skip
    spread = [score for score in scores if score.metrics]
    if spread:
        metrics = sorted({metric for score in spread for metric in score.metrics})
        yield Disclosure(
            "distributions",
            f"{_models(spread)}: {', '.join(metrics)}",
            "how much patients differ: mean, standard deviation and, from 10 cases on, quartiles; "
            "how much models differ on the same cases, with intervals; the number of patients",
            EVERYBODY, min(score.created_at for score in spread), 0,
        )  # fmt: skip
    rows = [score for score in scores if score.cases]
    if rows:
        yield Disclosure(
            _CASES, f"{_models(rows)}: {len(rows[0].cases)} cases",
            "how good each model is in each case, and how large its structures are; the cases are "
            "not named, and always in the same order, which tells nothing",
            EVERYBODY, min(score.created_at for score in rows), 0,
        )  # fmt: skip


def _models(scores: Iterable[EvaluationMessage]) -> str:
    return ", ".join(model_name(score.variant) for score in scores)


def _through_others(state: StudyState, site: str) -> Iterator[Disclosure]:
    """Yield what others have published of the data of this site."""
    roster = _only("the roster") if state.charter.encryption == AGE else EVERYBODY
    if state.plan is not None and site in state.plan.sites and state.charter.mode == FFE:
        yield Disclosure(
            "in the plan", "its geometries among those of all sites, sorted",
            "sizes and spacings, not whose", roster, state.plan.created_at, 0,
        )  # fmt: skip
    records = state.rounds.values()
    used = [record for record in records for update in record.updates if update.site == site]
    if used:
        yield Disclosure(
            "in global models", f"{len(used)} updates went into versions "
            f"{used[0].version} to {used[-1].version}",
            "a model tells less of a site than its update, the less the more sites there are",
            roster, used[0].created_at, 0,
        )  # fmt: skip
        yield Disclosure(
            "in round records", f"{len(used)} times: its weight, cases and iterations",
            "how much it contributed", EVERYBODY, used[0].created_at, 0,
        )  # fmt: skip


_TRAINED = (
    "trained weights. Whoever has them may test whether a given image was trained on, and may "
    "reconstruct something like a training image, the better the fewer cases there are"
)
_MASKED = (
    "nothing alone: each is under a mask that only the helper knows, who cannot read it. The "
    "aggregator sees sums over several sites; it and the helper together would see each"
)
_AGGREGATOR_READS = "The aggregator's host can decrypt updates and fingerprints."

_TOTALS_ONLY = "Scores are masked, too: anybody can see totals over several sites, and no others."

_SUMS_ONLY = "Updates are masked: what the aggregator's host decrypts of them are sums, see above."


def readers(charter: Charter) -> Sequence[str]:
    """Return sentences on who can decrypt messages, updates and models."""
    if charter.encryption != AGE:
        return ("Nothing on the store is encrypted: its permissions decide who can read it.",)
    last = charter.read_keys[-1]
    sites = [name.removeprefix("site-") for name in last.sealed_for if name.startswith("site-")]
    roster = ", ".join(sorted(sites)) or "no site"
    return (
        *(() if charter.evaluates else (_AGGREGATOR_READS,)),
        *((_SUMS_ONLY,) if charter.secure_sums is not None else ()),
        *((_TOTALS_ONLY,) if charter.secure_scores else ()),
        f"Coordinator, aggregator and {roster} can decrypt models and plans.",
        "Everything else is signed and in the open.",
    )


def _only(who: str) -> str:
    return f"{who} only (encrypted)"


def _bytes_by_kind(sizes: Mapping[str, int], site: str) -> Counter[str]:
    out: Counter[str] = Counter()
    for text, size in sizes.items():
        key = layout.parse(text)
        if key is not None and key.site == site:
            out[key.kind] += size
    return out
