"""Curves of a report by run, tag and step, for viewers of other projects.

Rules:
 * A site's run is ``sites/<site>``, that of all is ``global``; equal things have equal tags.
 * A step is a version. What a site has learned from a version, its ``train_loss``, stands at that
   version.
 * What is not known is no point.
"""

from collections.abc import Mapping, Sequence

from fedfs.roles.reader.report.data import Report, SiteRow

GLOBAL = "global"
"""The run of all sites together."""

Values = Mapping[str, float]
"""Tag -> value."""


def curves(report: Report) -> dict[str, list[Values]]:
    """Return the values of each run by version."""
    seconds = {f"seconds/{phase}": column for phase, column in report.seconds.items()}
    of_all = {"dice": report.mean_dice, "n_bytes": report.n_bytes, **seconds}
    over_sites = {one.model: one.effects.mean for one in report.comparison.pooled}
    runs = {GLOBAL: _with_last(_by_version(report, of_all), _of_models(over_sites))}
    return runs | {f"sites/{row.site}": _of_site(report, row) for row in report.sites}


def _of_site(report: Report, row: SiteRow) -> list[Values]:
    """Return a site's curves; the last version also has its full validation and other models."""
    columns = {
        "dice": report.dice[row.site],
        "train_loss": report.train_loss[row.site],
        "weight": report.weights[row.site],
        "lag": report.lags[row.site],
    }
    steps = _by_version(report, columns)
    final = {
        "final_dice/mean": row.final_mean,
        **{f"final_dice/{name}": value for name, value in row.final.items()},
        **{f"final_hd95_mm/{name}": value for name, value in row.final_hd95_mm.items()},
        **_of_models(
            {m.model: m.dice.mean for m in report.comparison.models if m.site == row.site}
        ),
    }
    return _with_last(steps, final)


def _of_models(dice: Mapping[str, float]) -> Values:
    return {f"model_dice/{model}": value for model, value in dice.items()}


def _with_last(steps: list[Values], final: Mapping[str, float | None]) -> list[Values]:
    """Return the values of all versions, with more at the last one."""
    return steps and [*steps[:-1], {**steps[-1], **_known(final)}]


def _by_version(report: Report, columns: Mapping[str, Sequence[float | None]]) -> list[Values]:
    return [
        _known({tag: column[i] for tag, column in columns.items()})
        for i in range(len(report.versions))
    ]


def _known(values: Mapping[str, float | None]) -> Values:
    return {tag: value for tag, value in values.items() if value is not None}
