"""Sentences on models beside each other: what is shown, and what is not. Pure.

Rules:
 * Better and worse are said only where the 95 % interval of the difference leaves out zero.
   Elsewhere no difference is shown, which is not that there is none: the cases it would take are
   given.
 * Of many sites some are named; all are in the tables.
"""

from collections.abc import Iterator, Mapping, Sequence

from fedfs.aggregation.intervals import MIN_PATIENTS
from fedfs.aggregation.random_effects import RandomEffects
from fedfs.protocol.messages import SUPPRESSED
from fedfs.roles.reader.model_scores import (
    BETTER,
    FEDERATED,
    LOCAL,
    NOT_SHOWN,
    OF,
    SMALL_DIFFERENCE,
    UNKNOWN,
    WORSE,
    Choice,
    Difference,
    ModelAtSite,
    model_name,
    order,
)
from fedfs.roles.reader.report.format import (
    MOST_NAMED,
    format_cases,
    format_choice,
    format_difference,
    format_score,
    format_sites,
    format_spread,
    join,
)
from fedfs.roles.reader.units import format_count

_FEW_PATIENTS = 20
_OPEN = (NOT_SHOWN, UNKNOWN)


def tell_pairs(
    differences: Sequence[Difference], pooled: Mapping[tuple[str, str], RandomEffects]
) -> Iterator[str]:
    """Yield a paragraph on each pair of models, site by site and over all.

    Args:
        differences: of Dice.
        pooled: (model, other) -> mean over sites, where there are several.
    """
    for model, other in _told_pairs(differences):
        rows = [row for row in differences if (row.model, row.other) == (model, other)]
        yield " ".join(tell_pair(rows, pooled.get((model, other))))


def tell_pair(rows: Sequence[Difference], pooled: RandomEffects | None = None) -> Iterator[str]:
    """Yield sentences on one pair of models: better, worse, not shown, over all sites.

    Args:
        rows: of this pair and of Dice, one at least.
        pooled: their mean over sites.
    """
    one, other = (model_name(name) for name in (rows[0].model, rows[0].other))
    if len(rows) == 1:
        yield from _at_one_site(rows[0], one, other)
        return
    yield from tell_verdict(rows)
    of = {verdict: [row for row in rows if row.verdict == verdict] for verdict in _OPEN}
    for row in of[NOT_SHOWN][:MOST_NAMED]:
        yield f"At {row.site} no difference is shown: {format_difference(row)}{_hint(row)}."
    if len(of[NOT_SHOWN]) > MOST_NAMED:
        yield f"No difference is shown at {len(of[NOT_SHOWN]) - MOST_NAMED} more sites."
    if of[UNKNOWN]:
        yield f"Too few cases for an interval: {_each(of[UNKNOWN])}."
    if pooled is not None:
        yield from _mean_difference(pooled)


def tell_verdict(rows: Sequence[Difference]) -> Iterator[str]:
    """Yield where one model of a pair is better than the other, and where it is worse."""
    one, other = (model_name(name) for name in (rows[0].model, rows[0].other))
    better, worse = ([r for r in rows if r.verdict == verdict] for verdict in (BETTER, WORSE))
    if all(row.verdict == UNKNOWN for row in rows):
        yield f"At no site are there enough cases to compare the {one} and the {other}."
    elif len(worse) == len(rows):
        yield f"The {one} is worse than the {other} at {_share(worse, rows)}: {_each(worse)}."
    elif better:
        where = "" if len(better) == len(rows) else f" ({format_sites([r.site for r in better])})"
        yield f"The {one} is better than the {other} at {_share(better, rows)}{where}."
    else:
        yield (f"The {one} is not shown to be better than the {other} at any of {len(rows)} sites.")
    if len(rows) > len(worse) > 0:
        yield f"It is worse at {_each(worse)}."


def tell_sites(models: Sequence[ModelAtSite], pooled: Mapping[str, RandomEffects]) -> Iterator[str]:
    """Yield where the federated model does worst and best, or each model if there is none.

    Args:
        models: at all sites.
        pooled: model -> mean over sites, where there are several.
    """
    names = sorted({row.model for row in models}, key=order)
    for model in [FEDERATED] if FEDERATED in names else names[:MOST_NAMED]:
        rows = sorted((r for r in models if r.model == model), key=lambda row: row.dice.mean)
        worst, best = rows[0], rows[-1]
        if len(rows) == 1:
            yield f"Dice of the {model_name(model)} at {worst.site}: {format_score(worst)}."
            continue
        yield (
            f"The {model_name(model)} does worst at {worst.site}: {format_score(worst)}. "
            f"It does best at {best.site}: {format_score(best)}."
        )
        if found := pooled.get(model):
            yield _mean_of_model(model, found)


def tell_choices(models: Sequence[ModelAtSite], choices: Sequence[Choice]) -> Iterator[str]:
    """Yield which model is best at which site, and how good it is on cases that did not choose."""
    best = best_at_sites(models, choices)
    if not best:
        return
    by_model: dict[str, list[str]] = {}
    for site, model in best.items():
        by_model.setdefault(model, []).append(site)
    parts = [
        f"the {model_name(model)} at {format_sites(by_model[model])}"
        for model in sorted(by_model, key=order)
    ]
    yield f"By mean Dice, the best is {join(parts)}."
    if choices:
        told = [f"{one.site}, {format_choice(one)}" for one in choices[:MOST_NAMED]]
        yield (
            "The mean of the best flatters it, as the same cases chose it. On cases that did not "
            f"choose, the chosen model reaches: {'; '.join(told)}{_more(len(choices))}."
        )


def tell_intervals(differences: Sequence[Difference]) -> Iterator[str]:
    """Yield how many intervals there are, that none allows for the others, and which are short."""
    known = [row for row in differences if row.low is not None]
    if len(known) > 1:
        yield (
            f"There are {len(known):,} intervals of differences of Dice, each of 95 % by itself "
            "and not adjusted for their number: where nothing differs, about 1 in 20 leaves out "
            "zero all the same."
        )
    if any(row.n_patients < _FEW_PATIENTS for row in known):
        yield (
            "Intervals of few patients are too short: those of 5 hold the true difference in about "
            "85 of 100 studies, those of 10 in 89, those of 20 in 93."
        )


def tell_exclusions(sites: Sequence[str]) -> Iterator[str]:
    """Yield whose scores are not shown."""
    if sites:
        yield (
            f"Scores of {format_sites(sites)} are left out: they are of more cases than the site "
            "has announced."
        )


def tell_suppressed(sites: Sequence[str]) -> Iterator[str]:
    """Yield whose scores did not leave the site."""
    if sites:
        yield f"Scores of {format_sites(sites)} are {SUPPRESSED}."


def best_at_sites(models: Sequence[ModelAtSite], choices: Sequence[Choice]) -> dict[str, str]:
    """Return site -> the model that it chose, or that has the highest mean Dice of several.

    Of fewer cases than an interval takes, none is called the best.
    """
    found = {one.site: one.model for one in choices}
    for site in sorted({row.site for row in models} - found.keys()):
        rows = [row for row in models if row.site == site and row.dice.n >= MIN_PATIENTS]
        if len(rows) > 1:
            found[site] = max(rows, key=lambda row: row.dice.mean).model
    return dict(sorted(found.items()))


def _told_pairs(differences: Sequence[Difference]) -> list[tuple[str, str]]:
    """Return the pairs that sentences are on: against local or federated, or all without these."""
    pairs = {(row.model, row.other) for row in differences}
    with_base = {pair for pair in pairs if pair[1] in (LOCAL, FEDERATED)}
    without_sites = {pair for pair in with_base if not pair[0].startswith(OF)}
    told = sorted(
        without_sites or with_base or pairs, key=lambda pair: (order(pair[1]), order(pair[0]))
    )
    return told[:MOST_NAMED]


def _at_one_site(row: Difference, one: str, other: str) -> Iterator[str]:
    if row.verdict == NOT_SHOWN:
        yield (
            f"Between the {one} and the {other} no difference is shown at {row.site}: "
            f"{format_difference(row)}{_hint(row)}."
        )
    elif row.verdict == UNKNOWN:
        yield (
            f"Of the {one} and the {other} at {row.site} there are too few cases for an interval: "
            f"{format_difference(row)}."
        )
    else:
        told = format_difference(row)
        yield f"The {one} is {row.verdict} than the {other} at {row.site}: {told}."


def _hint(row: Difference) -> str:
    """Return the number of cases that it would take, if it is known."""
    if row.needed is None:
        return ""
    unit = "patients" if row.n_patients < row.n else "cases"
    if row.needed <= row.n_patients:
        text = f"; a difference of {SMALL_DIFFERENCE:g} would most likely have been shown"
        return text + _hint_for_mean(row, f"; to show this one, it would take {{}} {unit}")
    text = f"; to show a difference of {SMALL_DIFFERENCE:g}, it would take "
    return (
        text + f"{format_cases(row.needed)} {unit}" + _hint_for_mean(row, ", to show this one {}")
    )


def _hint_for_mean(row: Difference, text: str) -> str:
    return "" if row.needed_for_mean is None else text.format(format_cases(row.needed_for_mean))


def _mean_difference(found: RandomEffects) -> Iterator[str]:
    if found.low is None or found.high is None or found.tau is None:
        return
    shown = "" if found.low > 0 or found.high < 0 else ", so that none is shown on average"
    yield (
        f"Over {_weighed(found)} the mean difference is {found.mean:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f}){shown}; {format_spread(found)}."
    )
    if found.next_low is not None and found.next_high is not None:
        yield (
            "At a further site of the same kind it would be between "
            f"{found.next_low:+.3f} and {found.next_high:+.3f}."
        )


def _mean_of_model(model: str, found: RandomEffects) -> str:
    return (
        f"The mean of the {model_name(model)} over {_weighed(found)} is {found.mean:.3f} "
        f"({found.low:.3f} to {found.high:.3f}); {format_spread(found)}."
    )


def _weighed(found: RandomEffects) -> str:
    if not found.n_left_out:
        return f"{found.n_sites} sites"
    return f"the {found.n_sites} of {found.n_sites + found.n_left_out} sites with a known spread"


def _share(some: Sequence[Difference], rows: Sequence[Difference]) -> str:
    of = format_count(len(rows), "site")
    return f"all {of}" if len(some) == len(rows) > 1 else f"{len(some)} of {of}"


def _each(rows: Sequence[Difference]) -> str:
    told = [f"{row.site}, {format_difference(row)}" for row in rows[:MOST_NAMED]]
    return "; ".join(told) + _more(len(rows))


def _more(n: int) -> str:
    return f"; and {n - MOST_NAMED} more" if n > MOST_NAMED else ""
