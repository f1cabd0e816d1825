"""A report as one HTML file: nothing is fetched, everything is inside.

Without JavaScript the tables remain; charts are drawn by ``report.js`` from the numbers that the
page carries.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from fedfs import __version__
from fedfs.report.data import Report


def render(report: Report, *, made_at: str) -> str:
    """Return the page.

    Args:
        report: what it shows.
        made_at: UTC text.
    """
    columns = {
        "versions": report.versions,
        "published": report.published,
        "sites": [row.site for row in report.sites],
        "dice": report.dice,
        "mean_dice": report.mean_dice,
        "train_loss": report.train_loss,
        "weights": report.weights,
        "lags": report.lags,
        "n_bytes": report.n_bytes,
        "seconds": report.seconds,
    }
    text = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    return _template().render(
        report=report,
        answer=_answer(report),
        data=Markup(text.replace("<", "\\u003c")),  # noqa: S704  as nothing can end the script element
        style=Markup(_part("report.css")),  # noqa: S704  ours
        script=Markup(_part("report.js")),  # noqa: S704  ours
        made_at=made_at,
        version=__version__,
    )


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as plain values."""
    return dataclasses.asdict(report)


def _answer(report: Report) -> str:
    """Return in a sentence what an investigator asks first."""
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
    gains = [row.gain for row in report.local if row.gain is not None]
    if gains:
        better = sum(gain > 0 for gain in gains)
        text += (
            f" Against a model of its own data alone, federation is better at {better} of "
            f"{len(gains)} sites that compared (gain {min(gains):+.3f} to {max(gains):+.3f})."
        )
    finals = [row.final_mean for row in report.sites if row.final_mean is not None]
    if finals:
        text += (
            f" In nnU-Net's full validation the final model reaches {min(finals):.3f} at the site "
            f"where it does worst, {max(finals):.3f} where it does best."
        )
    return text


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.3f}"  # noqa: RUF001  a dash
    environment.filters["gain"] = lambda value: "–" if value is None else f"{value:+.3f}"  # noqa: RUF001  same
    environment.filters["distance"] = lambda value: "–" if value is None else f"{value:.1f}"  # noqa: RUF001  same
    environment.filters["count"] = lambda value: "–" if value is None else f"{value:,}"  # noqa: RUF001  same
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.0%}"  # noqa: RUF001  same
    environment.filters["megabytes"] = lambda value: f"{value / 1e6:,.1f} MB"
    return environment.from_string(_part("report.html.j2"))


def _part(name: str) -> str:
    return resources.files("fedfs.report").joinpath(name).read_text(encoding="utf-8")
