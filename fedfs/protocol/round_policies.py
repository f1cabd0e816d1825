"""Policies that close a round, by the name that a charter gives.

Rules:
 * A round closes early if every site that takes part has answered: waiting longer brings nothing.
 * Whatever the policy, the newest usable update of every site goes into the version that is made,
   one that is late with less weight, ``(1 + lag) ** -staleness_exponent``.
 * Time is the aggregator's own, and counts from the publication of the newest version. So a
   restart changes nothing, and clocks of two hosts are never compared.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedfs.errors import StudyError, UserError
from fedfs.protocol.messages import Named, utc
from fedfs.protocol.ranges import Range

STALENESS_EXPONENT = 0.5
"""FedBuff's choice, where a charter does not say otherwise."""

ADAPTIVE_GRACE = 1.25
"""Times as long as its own last rounds that a site is waited for, with ``grace = "adaptive"``."""

Options = Mapping[str, float]


@dataclass(frozen=True)
class RoundStatus:
    """Status of a round: its age, and the sites that have answered.

    Attributes:
        version: the newest version.
        opened_s: when it was published, by the aggregator's clock.
        now_s: now, by the same clock.
        n_cases: site -> training cases, of the sites that take part and are not away.
        answered: of these, the ones with a usable update from the newest version.
        missing: of these, the ones without any update from the newest version.
        n_usable: sites whose usable updates wait, from any version.
        expected_until_s: of the missing, until when their updates are expected.
    """

    version: int
    opened_s: float
    now_s: float
    n_cases: Mapping[str, int]
    answered: Sequence[str]
    missing: Sequence[str]
    n_usable: int
    expected_until_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def living(self) -> int:
        """Sites that take part and are not later than ever."""
        until_s = self.expected_until_s
        late = [site for site in self.missing if until_s.get(site, math.inf) <= self.now_s]
        return len(self.n_cases) - len(late)


Policy = Callable[[RoundStatus, Options], str]
"""Returns what the round waits for, "" to close it."""


def wait_for_all(status: RoundStatus, options: Options) -> str:  # noqa: ARG001  a policy's signature
    """Close when every site has answered."""
    return _updates(status) if status.missing else ""


def wait_for_quorum(status: RoundStatus, options: Options) -> str:
    """Close when enough sites have answered and the grace period is over, or at the deadline.

    Options: ``sites`` or ``cases_percent`` say what is enough; ``grace_minutes`` how long a round
    is open at least, for those who are a little late; ``adaptive_grace`` that each site is waited
    for as many times as long as its own last rounds took; ``deadline_minutes`` how long at most.
    """
    if not status.missing:
        return ""
    until_s = math.inf
    if "deadline_minutes" in options:
        until_s = status.opened_s + 60 * options["deadline_minutes"]
    if status.now_s >= until_s and status.n_usable:
        return ""
    at_most = "" if math.isinf(until_s) else f", until {utc(until_s)} at the latest"
    enough, have = _quorum(status, options)
    if not enough:
        return f"{_updates(status)}: {have} have answered{at_most}"
    grace_s = status.opened_s + 60 * options.get("grace_minutes", 0.0)
    awaited = status.missing
    if "adaptive_grace" in options:
        expected_s = {site: status.expected_until_s[site] for site in status.missing}
        awaited = [site for site in status.missing if status.now_s < expected_s[site]]
        grace_s = max(grace_s, *(expected_s[site] for site in awaited), 0.0)
    if status.now_s < (ends_s := min(grace_s, until_s)):
        until = "" if math.isinf(ends_s) else f" until {utc(ends_s)}"
        return f"{_updates(status, awaited or status.missing)}{until}: {have} have answered"
    return ""


def wait_for_buffer(status: RoundStatus, options: Options) -> str:
    """Close when updates of ``size`` sites wait, from any version (FedBuff, Nguyen et al. 2022).

    Of as many as take part and are not later than ever, if these are fewer: a site has one update
    in a version. At ``deadline_minutes`` one update is enough.
    """
    n_sites = status.living
    size = max(1, min(int(options["size"]), n_sites))
    if not status.missing or status.n_usable >= size:
        return ""
    until = ""
    if "deadline_minutes" in options:
        until_s = status.opened_s + 60 * options["deadline_minutes"]
        if status.now_s >= until_s and status.n_usable:
            return ""
        until = f", until {utc(until_s)} at the latest"
    fewer = f", as only {n_sites} sites take part" if n_sites < options["size"] else ""
    return f"{_updates(status)}: {status.n_usable} of {size} updates wait{fewer}{until}"


LIVING_FACTOR = 2.0
"""A buffer takes a site for gone that is late by as many times what its last rounds took."""


def expectation_factor(policy: Named) -> float | None:
    """Return how many times as long as its own rounds a site is waited for; None for any time."""
    if policy.name == "buffer":
        return LIVING_FACTOR
    return policy.options.get("adaptive_grace")


def changes_at(policy: Named, status: RoundStatus) -> float:
    """Return when the policy may close the round though nothing new came; infinity for never."""
    names = [n for n in ("grace_minutes", "deadline_minutes") if n in policy.options]
    times_s = [status.opened_s + 60 * policy.options[name] for name in names]
    times_s += status.expected_until_s.values()
    return min((time_s for time_s in times_s if time_s > status.now_s), default=math.inf)


_MINUTES = Range(low=0, high=525_600, high_is_open=False)
_DEADLINE = dataclasses.replace(_MINUTES, low_is_open=True)
_COUNT = Range(low=1, whole=True)
_SHARED = {"staleness_exponent": Range(low=0, high=100, high_is_open=False)}
_KNOWN: dict[str, tuple[Policy, dict[str, Range]]] = {
    "all": (wait_for_all, {}),
    "buffer": (wait_for_buffer, {"size": _COUNT, "deadline_minutes": _DEADLINE}),
    "quorum": (
        wait_for_quorum,
        {
            "sites": _COUNT,
            "cases_percent": Range(low=0, high=100, low_is_open=True, high_is_open=False),
            "grace_minutes": _MINUTES,
            "adaptive_grace": Range(low=1, high=100, high_is_open=False),
            "deadline_minutes": _DEADLINE,
        },
    ),
}
POLICIES = tuple(sorted(_KNOWN))
"""Names of all policies."""


def check(name: str, options: Options) -> None:
    """Check a policy and its options.

    Raises:
        UserError: the policy is not known, or an option is not, is missing or is out of range.
    """
    if name not in _KNOWN:
        raise UserError(f"Policy {name!r} is unknown.", hint=f"one of {', '.join(POLICIES)}")
    known = {**_KNOWN[name][1], **_SHARED}
    for option, value in options.items():
        if option not in known:
            raise UserError(
                f"Policy {name!r} has no option {option!r}.",
                hint=f"it has {', '.join(sorted(known))}",
            )
        if value not in known[option]:
            raise UserError(
                f"Option {option} of policy {name!r} cannot be {value:g}.",
                hint=f"it must be {known[option]}",
            )
    if name == "buffer" and "size" not in options:
        raise UserError("Policy 'buffer' needs the option size, the updates that make a version.")
    if name == "quorum" and ("sites" in options) == ("cases_percent" in options):
        raise UserError("Policy 'quorum' needs the option sites or cases_percent, one of them.")


def waits_for(policy: Named, status: RoundStatus) -> str:
    """Return what a round waits for under a charter's policy, "" if it closes now.

    Raises:
        StudyError: the charter's policy cannot be carried out by this software.
    """
    try:
        check(policy.name, policy.options)
    except UserError as error:
        raise StudyError(
            f"The charter's policy cannot be followed. {error}",
            hint=f"{error.hint}; is this fedfs older than the study?",
        ) from error
    reason = _KNOWN[policy.name][0](status, policy.options)
    if reason or status.n_usable:
        return reason
    if not status.n_cases:
        return "a site: all are paused or have left"
    return (
        f"a usable update from version {status.version}; every one so far was refused. Once the "
        "sites are repaired, fedfs close-round lets them train again"
    )


def lacks_updates(needs: str, fewest: int, status: RoundStatus) -> str:
    """Return what a round waits for of which no version can be made yet.

    Args:
        needs: the strategy, or whatever else needs so many updates.
        fewest: usable updates that it needs.
        status: of the round.
    """
    return (
        f"{_updates(status) if status.missing else 'more sites'}: {needs} needs "
        f"{fewest} usable updates, and has {status.n_usable}. fedfs close-round makes a version of "
        "none, from which all sites train"
    )


def staleness_exponent(policy: Named) -> float:
    """Return by how much updates from earlier versions count less."""
    return policy.options.get("staleness_exponent", STALENESS_EXPONENT)


def _updates(status: RoundStatus, sites: Sequence[str] = ()) -> str:
    return f"the update of {', '.join(sites or status.missing)} from version {status.version}"


def _quorum(status: RoundStatus, options: Options) -> tuple[bool, str]:
    """Return whether enough sites have answered, and a clause that says how many have."""
    n_sites = len(status.answered)
    if "sites" in options:
        enough = n_sites >= min(options["sites"], len(status.n_cases))
        return enough, f"{n_sites} of {options['sites']:.0f} sites"
    have = sum(status.n_cases[site] for site in status.answered)
    total = sum(status.n_cases.values())
    percent = 100.0 * have / total if total else 0.0
    text = f"sites with {percent:.0f} of {options['cases_percent']:g} percent of all cases"
    return percent >= options["cases_percent"], text
