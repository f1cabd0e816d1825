"""A charter beside a site's policy: what agrees, what clashes, what is held back. Pure.

Rules:
 * A clash keeps the site out: it asks for what the policy forbids, and without it the site has no
   part in the study.
 * What the site can leave out by itself is held back instead, and the study goes on: scores are
   suppressed, and fingerprints say less than the charter asks for.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from fedfs.errors import PolicyError
from fedfs.protocol.messages import ASYM, Charter
from fedfs.protocol.messages import SUPPRESSED as SUPPRESSED_TEXT
from fedfs.protocol.state import StudyState
from fedfs.roles.site.policy.rules import NONE, REQUIRED, SITE, TOTALS, SitePolicy
from fedfs.trust.recipients import AGE
from fedfs.trust.signing import key_fingerprint

CLASH, SUPPRESSED, LESS, UNKNOWN, AGREES = "clash", "suppressed", "less", "unknown", ""
"""Effects of a key on a study."""


@dataclass(frozen=True)
class Comparison:
    """One key of a policy beside what a charter says.

    Attributes:
        key: of the policy.
        policy: what the policy says, as text.
        charter: what the charter says, as text; "" where it says nothing.
        effect: :data:`CLASH`, :data:`SUPPRESSED`, :data:`LESS`, :data:`UNKNOWN` or :data:`AGREES`.
        text: a sentence on the effect; "" where both agree.
    """

    key: str
    policy: str
    charter: str
    effect: str = AGREES
    text: str = ""


def compare(
    charter: Charter, policy: SitePolicy, n_cases: int | None = None
) -> tuple[Comparison, ...]:
    """Return every key of a policy beside a charter.

    Args:
        charter: of a study.
        policy: of a site.
        n_cases: of the site, if they are known.
    """
    trained = () if charter.evaluates else tuple(_training(charter, policy))
    return (*_always(charter, policy, n_cases), *trained, *_scores(charter, policy))


def clashes(
    charter: Charter, policy: SitePolicy, n_cases: int | None = None
) -> tuple[Comparison, ...]:
    """Return the keys of a policy that keep its site out of a study; see :func:`compare`."""
    return tuple(one for one in compare(charter, policy, n_cases) if one.effect == CLASH)


def require_no_clash(
    charter: Charter, policy: SitePolicy, *, source: str, n_cases: int | None = None
) -> None:
    """Refuse to take part in a study that clashes with a site's policy.

    Args:
        charter: of the study.
        policy: of the site.
        source: where the policy comes from, for the message.
        n_cases: of the site, if they are known.

    Raises:
        PolicyError: with every clash.
    """
    found = clashes(charter, policy, n_cases)
    if found:
        raise PolicyError(
            f"The site's policy ({source}) does not allow study {charter.name!r}:\n  "
            + "\n  ".join(f"{one.key}: {one.text}" for one in found),
            hint="change the site's policy, or talk to the coordinator",
        )


def _always(charter: Charter, policy: SitePolicy, n_cases: int | None) -> Iterator[Comparison]:
    found = key_fingerprint(charter.coordinator_key)
    allowed = policy.coordinators
    yield _row(
        "coordinators",
        "any" if allowed is None else ", ".join(map(_grouped, allowed)) or "nobody",
        found,
        clash=f"the study is led by the key {found}, which the policy does not name"
        if allowed is not None and found.replace(" ", "") not in allowed
        else "",
    )
    yield _row(
        "minimum_cases",
        str(policy.minimum_cases),
        f"at least {charter.minimum_cases}",
        clash=f"this site has {n_cases} cases, and nothing that describes fewer than "
        f"{policy.minimum_cases} leaves"
        if n_cases is not None and n_cases < policy.minimum_cases
        else "",
        unknown="the number of cases is compared when the site joins" if n_cases is None else "",
    )
    yield _row(
        "encryption",
        policy.encryption,
        charter.encryption or "none",
        clash="the charter encrypts nothing (fedfs init --encryption age)"
        if policy.encryption == REQUIRED and charter.encryption != AGE
        else "",
    )
    yield _row(
        "models_elsewhere",
        "yes" if policy.models_elsewhere else "no",
        "every site publishes its model" if charter.shares_models else "no",
        clash="the charter lets other sites score each site's model (--cross-evaluation, "
        "--ensemble)"
        if charter.shares_models and not policy.models_elsewhere
        else "",
    )


def _training(charter: Charter, policy: SitePolicy) -> Iterator[Comparison]:
    sums = charter.secure_sums
    yield _row(
        "secure_sums",
        policy.secure_sums,
        "yes" if sums else "no",
        clash="the aggregator would see this site's updates: the charter has no secure sums"
        if policy.secure_sums == REQUIRED and not sums
        else "",
    )
    for key, allowed, name in (
        ("encodings", policy.encodings, charter.encoding.name),
        ("strategies", policy.strategies, charter.strategy.name),
        ("trainers", policy.trainers, charter.nnunet.trainer),
    ):
        yield _named(key, allowed, name)
    rounds = charter.schedule.rounds
    yield _row(
        "max_rounds",
        _or_any(policy.max_rounds),
        str(rounds),
        clash=f"the charter has {rounds} rounds, and the most are {policy.max_rounds}"
        if policy.max_rounds is not None and rounds > policy.max_rounds
        else "",
    )
    minutes, hours = charter.schedule.local_minutes, policy.max_round_hours
    is_shorter = hours is not None and (minutes is None or minutes > 60 * hours)
    yield _row(
        "max_round_hours",
        _or_any(hours),
        "as long as it takes" if minutes is None else f"{minutes / 60:g}",
        less=f"this site ends each round's training after {hours:g} h" if is_shorter else "",
    )
    yield _row("extremes", "yes" if policy.extremes else "no", "")
    if charter.mode == ASYM:
        return
    yield _fewer("fingerprint_digits", policy.fingerprint_digits, charter.fingerprint_digits)
    yield _fewer(
        "fingerprint_quantiles", policy.fingerprint_quantiles, charter.fingerprint_quantiles
    )


def _scores(charter: Charter, policy: SitePolicy) -> Iterator[Comparison]:
    shows = shows_totals(policy) if charter.secure_scores else shows_scores(policy)
    held = "" if shows else f"scores of this site are {SUPPRESSED_TEXT}"
    is_all = bool(held) and charter.evaluates
    yield _row(
        "scores",
        {SITE: "of the site's cases together", TOTALS: "in totals over sites", NONE: "none"}[
            policy.scores
        ],
        "in totals over sites" if charter.secure_scores else "of every site",
        clash="this study consists of scores, and the policy lets none of this site leave"
        if is_all
        else "",
        suppressed=held,
    )
    yield _row(
        "minimum_scored_cases",
        str(policy.minimum_scored_cases),
        "",
    )


def announced_cases(state: StudyState, site: str) -> int | None:
    """Return the cases that a site has told the study; None before it has asked to join."""
    join = state.joins.get(site)
    return state.n_cases(site) or (join.n_cases if join else None)


def shows_scores(policy: SitePolicy) -> bool:
    """Return whether scores of the site's cases together may leave."""
    return policy.scores == SITE


def shows_totals(policy: SitePolicy) -> bool:
    """Return whether scores may leave where nobody can see more than totals over sites."""
    return policy.scores in (SITE, TOTALS)


def _row(
    key: str,
    policy: str,
    charter: str,
    *,
    clash: str = "",
    suppressed: str = "",
    less: str = "",
    unknown: str = "",
) -> Comparison:
    texts = {CLASH: clash, SUPPRESSED: suppressed, LESS: less, UNKNOWN: unknown}
    for effect, text in texts.items():
        if text:
            return Comparison(key, policy, charter, effect, text)
    return Comparison(key, policy, charter)


def _named(key: str, allowed: Collection[str] | None, name: str) -> Comparison:
    is_refused = allowed is not None and name not in allowed
    return _row(
        key,
        "any" if allowed is None else ", ".join(allowed) or "none",
        name,
        clash=f"the charter has {name}, which the policy does not name" if is_refused else "",
    )


def _fewer(key: str, most: int | None, asked: int | None) -> Comparison:
    is_less = most is not None and (asked is None or asked > most)
    text = f"fingerprints of this site have at most {most}" if is_less else ""
    return _row(key, _or_any(most), "all" if asked is None else str(asked), less=text)


def smaller(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two limits, either of which may be None for no limit."""
    limits = [limit for limit in (one, other) if limit is not None]
    return min(limits, default=None)


def _or_any(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))


def keys_of(found: Sequence[Comparison]) -> str:
    """Return the keys of comparisons, for people: ``encryption, max_rounds``."""
    return ", ".join(one.key for one in found)
