"""A report as one HTML file: nothing is fetched, everything is inside.

Without JavaScript the tables remain; charts are drawn by ``report.js`` from the numbers that the
page carries.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fedfs import __version__
from fedfs.aggregation.best_configuration import JOINT
from fedfs.aggregation.random_effects import RandomEffects
from fedfs.protocol.messages import EVALUATE
from fedfs.roles.reader.model_scores import (
    FEDERATED,
    LOCAL,
    SMALL_DIFFERENCE,
    Difference,
    Score,
    model_name,
)
from fedfs.roles.reader.report.bars import axis
from fedfs.roles.reader.report.comparison import Comparison
from fedfs.roles.reader.report.data import Report
from fedfs.roles.reader.report.format import format_cases, format_p
from fedfs.roles.reader.report.overview import Overview
from fedfs.roles.reader.report.sentences import tell_pair, tell_verdict
from fedfs.roles.reader.templates import Templates, as_markup, read_part, templates_of

_PACKAGE = "fedfs.roles.reader.report"

_DRAWN = (
    "versions", "published", "dice", "mean_dice", "train_loss", "weights", "lags", "n_bytes",
    "seconds",
)  # fmt: skip
"""Fields of a report that ``report.js`` draws."""

METRIC_NAMES = {
    "dice": "Dice",
    "nsd": "Surface Dice (NSD)",
    "hd95_mm": "HD95, mm",
    "f1": "F1 of lesions",
    "sensitivity": "Sensitivity",
    "false_positives": "False positives",
    "volume_ml": "Volume, ml",
    "reference_volume_ml": "Reference, ml",
    "calibration_error": "Calibration error",
}
"""Metric -> its name for people, in the order of tables."""


def render(report: Report, *, made_at: str) -> str:
    """Return the page.

    Args:
        report: what it shows.
        made_at: UTC text.
    """
    columns = {name: getattr(report, name) for name in _DRAWN}
    columns["sites"] = [row.site for row in report.sites]
    template = "evaluation" if report.mode == EVALUATE else "report"
    return _page(
        template, columns, facts=report.facts, answer=_answer(report), made_at=made_at,
        report=report, **_scales(report.comparison),
    )  # fmt: skip


def render_overview(overview: Overview, pages: Mapping[str, str], *, made_at: str) -> str:
    """Return the page over all tracks of a study.

    Args:
        overview: what it shows.
        pages: track -> address of its own page, relative to this one; of those that have one.
        made_at: UTC text.
    """
    columns = {
        "versions": overview.versions,
        "tracks": [row.track for row in overview.tracks],
        "dice": overview.dice,
        "train_loss": overview.train_loss,
    }
    return _page(
        "overview", columns, facts=overview.facts, answer=_answer_of_all(overview),
        made_at=made_at, overview=overview, pages=pages,
    )  # fmt: skip


def _scales(shown: Comparison) -> dict[str, Any]:
    """Return the axes of bars, and the metrics that are known of any model."""
    scores: list[Score | RandomEffects] = [row.dice for row in shown.models]
    scores += [row.effects for row in shown.pooled]
    changes: list[Difference | RandomEffects] = [*shown.of_dice]
    changes += [row.effects for row in shown.pooled_differences]
    known = {name for row in shown.models for name in row.metrics}
    return {
        "dice_axis": axis((end for one in scores for end in _ends(one)), low=0, high=1),
        "difference_axis": axis(
            (end for one in changes for end in _ends(one)), low=-1, high=1, zero=True
        ),
        "metrics": [name for name in METRIC_NAMES if name in known],
        "metric_names": {**METRIC_NAMES, "nsd": _name_of_nsd(shown)},
        "small": SMALL_DIFFERENCE,
    }


def _name_of_nsd(shown: Comparison) -> str:
    tolerances = {row.nsd_tolerance_mm for row in shown.models if "nsd" in row.metrics} - {None}
    if len(tolerances) > 1:
        return f"{METRIC_NAMES['nsd']}, tolerances of sites differ"
    return METRIC_NAMES["nsd"] + "".join(f" at {mm:g} mm" for mm in tolerances)


def _ends(one: Score | Difference | RandomEffects) -> tuple[float | None, ...]:
    return one.low, one.mean, one.high


def _page(template: str, columns: Mapping[str, Any], *, made_at: str, **shown: Any) -> str:
    """Return a page made from a template; ``report.js`` draws the columns."""
    text = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    return (
        _templates()
        .get_template(f"{template}.html.j2")
        .render(
            **shown,
            data=as_markup(text.replace("<", "\\u003c")),  # so that nothing ends the element
            style=as_markup(read_part(_PACKAGE, "report.css")),
            script=as_markup(read_part(_PACKAGE, "report.js")),
            made_at=made_at,
            version=__version__,
        )
    )


def _answer(report: Report) -> str:
    """Return a sentence on the newest scores, which an investigator asks for first."""
    if report.mode == EVALUATE:
        return _answer_of_models(report)
    known = [
        (v, d) for v, d in zip(report.versions, report.mean_dice, strict=True) if d is not None
    ]
    if not known:
        return "No version has been evaluated yet."
    best = max(known, key=lambda pair: pair[1])
    newest = known[-1]
    text = (
        f"Mean Dice over all sites' validation cases is {newest[1]:.3f} at version {newest[0]}"
        f" (first {known[0][1]:.3f}, best {best[1]:.3f} at version {best[0]})."
    )
    text += _gains(report)
    if report.sums is not None and report.sums.final_mean is not None:
        text += (
            f" In nnU-Net's full validation the final model reaches {report.sums.final_mean:.3f} "
            "over the cases of several sites together."
        )
    finals = [row.final_mean for row in report.sites if row.final_mean is not None]
    if finals:
        text += (
            f" In nnU-Net's full validation the final model reaches {min(finals):.3f} at the site "
            f"where it does worst, {max(finals):.3f} where it does best."
        )
    return text


def _gains(report: Report) -> str:
    """Return a sentence on federated and local models, where sites have both."""
    pair = [
        row for row in report.comparison.of_dice if (row.model, row.other) == (FEDERATED, LOCAL)
    ]
    if pair:
        return " " + " ".join(tell_verdict(pair) if len(pair) > 1 else tell_pair(pair))
    gains = [row.gain for row in report.local if row.gain is not None]
    if not gains:
        return ""
    higher = sum(gain > 0 for gain in gains)
    return (
        f" The mean Dice of the federated model is above that of a local one at {higher} of "
        f"{len(gains)} sites that compared (difference {min(gains):+.3f} to {max(gains):+.3f}, no "
        "intervals known)."
    )


def _answer_of_models(report: Report) -> str:
    """Return a sentence on each given model that a site has scored."""
    sentences = []
    for row in report.matrix:
        known = {site: dice for site, dice in row.dice.items() if dice is not None}
        if known:
            worst, best = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            sentences.append(
                f"The model {row.model} has a mean Dice of {known[worst]:.3f} at {worst}, where it "
                f"does worst of {len(known)} sites, and of {known[best]:.3f} at {best}."
            )
    return " ".join(sentences) or "No site has scored a model yet."


def _answer_of_all(overview: Overview) -> str:
    """Return a sentence on the result of all tracks."""
    if overview.choice is not None:
        chosen = overview.choice
        steps = " and ".join(overview.classes.get(step, step) for step in chosen.steps)
        return (
            f"The best model is {_model_name(chosen.candidate)}"
            + (f", after which only the largest component of {steps} is kept" if steps else "")
            + f": mean Dice {chosen.dice_after:.3f} over {chosen.n_cases} validation cases "
            + (f"of {len(chosen.sites)} sites." if chosen.sites else "in totals over sites.")
        )
    best = max(overview.tracks, key=lambda row: -1 if row.last_dice is None else row.last_dice)
    if best.last_dice is None:
        return "No version has been evaluated yet."
    return (
        f"{overview.facts['Tracks']}. The highest mean pseudo Dice so far is "
        f"{best.last_dice:.3f}, on {best.track}."
    )


def _model_name(candidate: str) -> str:
    """Return a candidate's name: ``2d``, ``the ensemble of 2d and 3d_fullres``."""
    parts = candidate.split(JOINT)
    return parts[0] if len(parts) == 1 else f"the ensemble of {' and '.join(parts)}"


def _interval(form: str, low: str = "low", high: str = "high") -> Callable[[Any], str]:
    """Return a filter that writes the interval of whatever has these two ends."""

    def write(one: Any) -> str:
        ends = getattr(one, low), getattr(one, high)
        return "–" if None in ends else " to ".join(form.format(end) for end in ends)  # noqa: RUF001  a dash

    return write


_INTERVALS = {
    "ends": _interval("{:.3f}"),
    "signed_ends": _interval("{:+.3f}"),
    "number_ends": _interval("{:.3g}"),
    "next_ends": _interval("{:.3f}", "next_low", "next_high"),
    "next_signed_ends": _interval("{:+.3f}", "next_low", "next_high"),
    "number": "{:.3g}".format,
    "p_value": lambda p: "–" if p is None else format_p(p),  # noqa: RUF001  a dash
    "cases": lambda n: "–" if n is None else format_cases(n),  # noqa: RUF001  a dash
    "model": lambda model: model_name(model).removesuffix(" model"),
}


@cache
def _templates() -> Templates:
    environment = templates_of(_PACKAGE)
    environment.filters["model_name"] = _model_name
    environment.filters.update(_INTERVALS)
    environment.filters["megabytes"] = lambda value: f"{value / 1e6:,.1f} MB"
    return environment
