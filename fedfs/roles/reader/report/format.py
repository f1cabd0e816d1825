"""Numbers of models, and names of sites, as parts of sentences. Pure."""

from collections.abc import Sequence

from fedfs.aggregation.random_effects import RandomEffects
from fedfs.roles.reader.model_scores import Choice, Difference, ModelAtSite
from fedfs.roles.reader.units import format_count

MOST_NAMED = 6
"""Sites that are named, of many."""

_MANY_CASES = 10_000
_LEAST_P = 0.001


def format_score(row: ModelAtSite) -> str:
    """Return a Dice as text: ``0.812 (0.790 to 0.834, 14 cases)``."""
    dice = row.dice
    return (
        f"{dice.mean:.3f}{_in_brackets(dice.low, dice.high, '.3f', format_count(dice.n, 'case'))}"
    )


def format_choice(one: Choice) -> str:
    """Return the Dice of a choice as text, like that of a model."""
    size = format_count(one.n, "case")
    return f"{one.dice:.3f}{_in_brackets(one.low, one.high, '.3f', size)}"


def format_difference(row: Difference) -> str:
    """Return a difference as text: ``+0.004 (-0.011 to +0.019, 14 cases of 9 patients)``."""
    size = format_count(row.n, "case")
    if row.n_patients < row.n:
        size += f" of {format_count(row.n_patients, 'patient')}"
    return f"{row.mean:+.3f}{_in_brackets(row.low, row.high, '+.3f', size)}"


def format_cases(n: int) -> str:
    """Return a number of cases as precise as such a plan is: two digits."""
    if n >= _MANY_CASES:
        return f"more than {_MANY_CASES:,}"
    digits = len(str(n))
    return f"about {round(n, 2 - digits) if digits > 2 else n:,}"  # noqa: PLR2004  digits


def format_p(p: float) -> str:
    """Return a p as text, with three digits."""
    return f"{p:.3f}" if p >= _LEAST_P else f"< {_LEAST_P}"


def format_spread(found: RandomEffects) -> str:
    """Return how much the sites differ, as part of a sentence."""
    if not found.tau:
        return "the sites differ no more than chance makes them"
    i2 = f"I² {100 * (found.i2 or 0):.0f} %"
    return f"the sites differ by a standard deviation of {found.tau:.3f} ({i2})"


def format_sites(sites: Sequence[str]) -> str:
    """Return names of sites as text: ``north``, ``north and south``, of many ``… and 4 more``."""
    shown = list(sites[:MOST_NAMED])
    if len(sites) > len(shown):
        return f"{', '.join(shown)} and {len(sites) - len(shown)} more"
    return join(shown)


def _in_brackets(low: float | None, high: float | None, form: str, size: str) -> str:
    ends = "" if low is None or high is None else f"{low:{form}} to {high:{form}}, "
    return f" ({ends}{size})"


def join(parts: Sequence[str]) -> str:
    """Return parts as one text: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
