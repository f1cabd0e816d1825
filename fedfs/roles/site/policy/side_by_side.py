"""Rule of a site's policy on each kind of thing that leaves a site. Pure."""

from fedfs.protocol.messages import SUPPRESSED
from fedfs.roles.site.policy.comparison import shows_scores, shows_totals
from fedfs.roles.site.policy.rules import NONE, REQUIRED, SitePolicy

_HARMLESS = dict.fromkeys(
    ("failures", "attendance", "statuses", "no scores"),
    "always leaves, as it says nothing about the data",
)
_OF_OTHERS = dict.fromkeys(
    ("in the plan", "in global models", "in round records"),
    "made by the aggregator of what has left the site",
)


def rule_on(what: str, policy: SitePolicy) -> str:
    """Return what a policy says about a kind of disclosure, as text.

    Args:
        what: its kind, see :class:`fedfs.roles.reader.privacy.Disclosure`.
        policy: of the site.
    """
    cases = f"of {policy.minimum_cases} cases or more"
    sealed = ", encrypted only" if policy.encryption == REQUIRED else ""
    scores = _scores(policy)
    rules = {
        "join request": f"{cases}, after charter and policy agree",
        "fingerprint": f"{cases}{sealed}; {_fingerprint(policy)}",
        "plan of its own": f"{cases}{sealed}",
        "updates": _updates(policy, sealed),
        "about updates": "cases, iterations and seconds; losses and scores "
        + ("too" if shows_scores(policy) else f"are {SUPPRESSED}"),
        "scores": scores,
        "masked scores": _totals(policy),
        "distributions": scores,
        "scores of single cases": scores,
        "cross-validation": scores,
        "its model": f"allowed{sealed}" if policy.models_elsewhere else "forbidden",
    }
    return {**rules, **_HARMLESS, **_OF_OTHERS}.get(what, "not named in the policy")


def _fingerprint(policy: SitePolicy) -> str:
    parts = ["with extremes" if policy.extremes else "no extremes"]
    if policy.fingerprint_digits is not None:
        parts.append(f"at most {policy.fingerprint_digits} digits")
    if policy.fingerprint_quantiles is not None:
        parts.append(f"at most {policy.fingerprint_quantiles} lines of sizes and spacings")
    return ", ".join(parts)


def _updates(policy: SitePolicy, sealed: str) -> str:
    parts = []
    if policy.encodings is not None:
        parts.append(f"as {', '.join(policy.encodings) or 'nothing'}")
    if policy.max_rounds is not None:
        parts.append(f"in a study of at most {policy.max_rounds} rounds")
    if policy.secure_sums == REQUIRED:
        parts.append("in secure sums only")
    return ("allowed" if not parts else "allowed " + ", ".join(parts)) + sealed


def _totals(policy: SitePolicy) -> str:
    if not shows_totals(policy):
        return SUPPRESSED
    return f"in totals over sites, of {policy.minimum_scored_cases} validation cases or more"


def _scores(policy: SitePolicy) -> str:
    if shows_scores(policy):
        return f"of {policy.minimum_scored_cases} validation cases or more"
    return SUPPRESSED + ("" if policy.scores == NONE else ", but for totals over sites")
