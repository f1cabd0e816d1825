"""Mean over sites that are not alike: a random-effects model, and the cases that a proof takes.

Rules:
 * The variance between sites is that of Paule and Mandel (1982): with it, the weighted squares
   around the mean are as large as chance makes them. It takes no distribution for granted, and
   there is always exactly one.
 * The interval is that of Knapp and Hartung (2003), never narrower than the sites' own standard
   errors allow, with their t distribution; that of a further site's true value has it, too (IntHout
   et al. 2016).
 * A site that cannot be weighed is left out: without a standard error, or with one that no
   measurement has. One site has a mean and no interval; two say nothing about a further one.

R. C. Paule, J. Mandel: Consensus values and weighting factors. J Res NBS 87:377-385 (1982).
G. Knapp, J. Hartung: Improved tests for a random effects meta-regression with a single covariate.
Stat Med 22:2693-2710 (2003).
J. P. T. Higgins, S. G. Thompson: Quantifying heterogeneity. Stat Med 21:1539-1558 (2002).
J. IntHout et al.: Plea for routinely presenting prediction intervals. BMJ Open 6:e010247 (2016).
W. C. Guenther: Sample size formulas for normal theory t tests. Am Stat 35:243-244 (1981).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, variance

CONFIDENCE = 0.95
POWER = 0.8
SMALLEST_ERROR = 1e-6
"""Standard error below which a number was not measured: it would outweigh all others."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_MOST_CASES = 1e9
_HALVINGS = 100

Interval = tuple[float, float] | tuple[None, None]
"""Both ends; None where they are not known."""


@dataclass(frozen=True)
class Estimate:
    """A number that one site has measured, and its standard error; None if it is not known."""

    value: float
    error: float | None


@dataclass(frozen=True)
class RandomEffects:
    """The mean over sites and the spread of their true values.

    Attributes:
        n_sites: that were weighed.
        n_left_out: that could not be weighed.
        low, high: 95 % interval of the mean; None of one site.
        tau: standard deviation of the true values; None of one site.
        q, q_p: Cochran's Q, and its p of a chi-square with one degree of freedom less than sites.
        i2: share of Q above its expectation; likewise.
        next_low, next_high: 95 % interval of the true value at a further site; None of two sites.
    """

    n_sites: int
    n_left_out: int
    mean: float
    low: float | None = None
    high: float | None = None
    tau: float | None = None
    q: float | None = None
    q_p: float | None = None
    i2: float | None = None
    next_low: float | None = None
    next_high: float | None = None


def pool(estimates: Sequence[Estimate]) -> RandomEffects | None:
    """Return the mean over sites; None if none can be weighed.

    >>> found = pool([Estimate(0.90, 0.01), Estimate(0.80, 0.02), Estimate(0.85, 0.01)])
    >>> f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}), tau {found.tau:.3f}"
    '0.852 (0.729 to 0.975), tau 0.047'

    Args:
        estimates: one of each site.
    """
    known = [(e.value, e.error**2) for e in estimates if e.error and e.error >= SMALLEST_ERROR]
    n, n_left_out = len(known), len(estimates) - len(known)
    if n < 2:  # noqa: PLR2004  nothing to compare
        return RandomEffects(n, n_left_out, known[0][0]) if known else None
    from scipy import special  # noqa: PLC0415  a report of no scores does without

    tau2 = _between(known)
    q, q_residual = _squares(known, 0.0), _squares(known, tau2)
    total = math.fsum(1 / (own + tau2) for _, own in known)
    mean, t = _mean(known, tau2), float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    error2 = max(1.0, q_residual / (n - 1)) / total
    half, half_next = t * math.sqrt(error2), t * math.sqrt(error2 + tau2)
    is_next = n > 2  # noqa: PLR2004  see the rules
    return RandomEffects(
        n,
        n_left_out,
        mean,
        low=mean - half,
        high=mean + half,
        tau=math.sqrt(tau2),
        q=q,
        q_p=float(special.chdtrc(n - 1, q)),
        i2=max(0.0, 1 - (n - 1) / q) if q else 0.0,
        next_low=mean - half_next if is_next else None,
        next_high=mean + half_next if is_next else None,
    )


def mean_interval(n: int, mean: float, sd: float | None) -> Interval:
    """Return the 95 % interval of the mean of ``n`` cases by Student's t; None of one case.

    >>> "{:.3f} to {:.3f}".format(*mean_interval(4, 0.8, 0.1))
    '0.641 to 0.959'
    """
    if sd is None or n < 2:  # noqa: PLR2004  no spread
        return None, None
    from scipy import special  # noqa: PLC0415  as above

    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return mean - half, mean + half


def error_of_interval(low: float | None, high: float | None, n: int) -> float | None:
    """Return the standard error behind a 95 % bootstrap interval of the mean of ``n`` patients.

    A bootstrap takes the spread of a sample for that of all, which is too small by n - 1 to n.
    """
    if low is None or high is None or n < 2:  # noqa: PLR2004  no spread
        return None
    return (high - low) / (2 * _Z) * math.sqrt(n / (n - 1))


def cases_needed(difference: float, sd: float | None) -> int | None:
    """Return the cases that show a mean difference of pairs in four of five studies.

    Two-sided t test at 5 % with a power of 80 %: n = (z1 + z2)^2 (sd / difference)^2 + z1^2 / 2,
    with the quantiles z1 of 97.5 % and z2 of 80 % (Guenther 1981). None if nothing differs, if the
    spread is not known, and where it would take more than a thousand million.

    >>> cases_needed(0.01, 0.05)
    199

    Args:
        difference: of the mean.
        sd: standard deviation of the differences of single pairs.
    """
    if not difference or not sd:
        return None
    z = _Z + NormalDist().inv_cdf(POWER)
    needed = (z * sd / abs(difference)) ** 2 + _Z**2 / 2
    return math.ceil(needed) if needed < _MOST_CASES else None


_Known = Sequence[tuple[float, float]]
"""Value and variance of each site."""


def _mean(known: _Known, tau2: float) -> float:
    weights = [1 / (own + tau2) for _, own in known]
    products = (w * value for w, (value, _) in zip(weights, known, strict=True))
    return math.fsum(products) / math.fsum(weights)


def _squares(known: _Known, tau2: float) -> float:
    """Return the weighted squares around the mean, which fall as ``tau2`` grows."""
    mean = _mean(known, tau2)
    return math.fsum((value - mean) ** 2 / (own + tau2) for value, own in known)


def _between(known: _Known) -> float:
    """Return the variance between sites, by halving: it is at most that of their values."""
    expected = len(known) - 1
    if _squares(known, 0.0) <= expected:
        return 0.0
    low, high = 0.0, variance(value for value, _ in known)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _squares(known, middle) > expected:
            low = middle
        else:
            high = middle
    return high
