"""Weights of updates: named policies that argue for themselves.

Rules:
 * A weight is the policy's value times the share of the round's budget that the site completed,
   times its staleness; weights are normalised to sum to 1 in float64.
 * Weights depend on the contributions only, not on their order.
 * A site cannot raise its weight by claiming more iterations than were planned. How many cases it
   has, it says itself: whoever reads contributions compares them with the site's fingerprint.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fedfs.errors import MalformedError, StudyError, UserError


@dataclass(frozen=True)
class Contribution:
    """Numbers that the weight of one update depends on.

    Attributes:
        site: name of the site.
        n_cases: cases it trained on.
        n_iterations: training iterations it completed.
        planned_iterations: iterations the round's budget allowed.
        lag: versions between the base of the update and the current one.
    """

    site: str
    n_cases: int
    n_iterations: int
    planned_iterations: int
    lag: int = 0


def n_cases(contribution: Contribution) -> float:
    """Weight by the number of training cases (McMahan et al. 2017), the default.

    If sites differ in size, this makes a case count the same wherever it lies, as it would if the
    data were pooled; the federated model then estimates the one that pooled training would give. A
    small site with unlike images has little say in it.
    """
    return float(contribution.n_cases)


def uniform(contribution: Contribution) -> float:  # noqa: ARG001  a policy may ignore its argument
    """Weight every site the same, as the published code of Skorupko et al. (2025) does.

    This serves sites alike rather than cases alike: a small site is heard as loudly as a large one,
    and its few cases, and the noise in them, count more. Use it to reproduce the paper or where
    the model must work equally well at every site.
    """
    return 1.0


POLICIES: Mapping[str, Callable[[Contribution], float]] = MappingProxyType(
    {"n_cases": n_cases, "uniform": uniform}
)
"""Policy name, as in the charter, -> value of one contribution."""


def staleness(lag: int, exponent: float) -> float:
    """Return ``(1 + lag) ** -exponent``, the discount of FedBuff (Nguyen et al. 2022).

    Args:
        lag: versions between the base of the update and the current one, at least 0.
        exponent: 0 ignores staleness, 0.5 is FedBuff's choice.
    """
    if lag < 0:
        raise MalformedError(
            f"is based on a version {-lag} ahead of the current one", about="an update"
        )
    return float((1.0 + lag) ** -exponent)


def completed(contribution: Contribution) -> float:
    """Return the share of its planned iterations that the site completed, at most 1."""
    done, planned = contribution.n_iterations, contribution.planned_iterations
    return 0.0 if planned <= 0 else min(done / planned, 1.0)


def check_policy(policy: str) -> str:
    """Return ``policy`` if it is a known weighting policy.

    Raises:
        UserError: listing the known ones.
    """
    if policy not in POLICIES:
        raise UserError(
            f"Unknown weighting policy {policy!r}.",
            hint=f"known are: {', '.join(sorted(POLICIES))}",
        )
    return policy


def weigh(
    contributions: Sequence[Contribution], policy: str, *, staleness_exponent: float = 0.0
) -> tuple[float, ...]:
    """Return the weights of ``contributions``, in their order, which sum to 1.

    Raises:
        MalformedError: a count is negative; names the site.
        StudyError: no contribution has a positive weight.
        UserError: the policy is not known.
    """
    value = POLICIES[check_policy(policy)]
    raw = []
    for item in contributions:
        if min(item.n_cases, item.n_iterations, item.planned_iterations, item.lag) < 0:
            raise MalformedError("has a negative count", about=f"the update of site {item.site!r}")
        raw.append(value(item) * completed(item) * staleness(item.lag, staleness_exponent))
    total = math.fsum(raw)
    if total <= 0:
        sites = ", ".join(sorted(item.site for item in contributions)) or "none"
        raise StudyError(
            f"No update has a weight above zero (policy {policy!r}, updates of: {sites}).",
            hint="a site counts if it has training cases and completed at least one iteration",
        )
    return tuple(weight / total for weight in raw)
