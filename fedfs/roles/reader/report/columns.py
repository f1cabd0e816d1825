"""Columns of a report: one number for each version, None where it is not known. Pure."""

from __future__ import annotations

from statistics import median

from fedfs.protocol.state import StudyState

Column = tuple[float | None, ...]

_PHASES = {"aggregate": "averaging", "publish": "publishing", "train": "training"}


def dice(state: StudyState, site: str, versions: tuple[int, ...]) -> Column:
    """Return a site's mean pseudo Dice by version."""
    scores = (state.evaluations.get((site, version, "pseudo")) for version in versions)
    return tuple(shorten(score.mean_dice) if score else None for score in scores)


def losses(state: StudyState, site: str, versions: tuple[int, ...]) -> Column:
    """Return the loss of a site's updates by the version that they were trained from."""
    updates = (state.updates.get((site, version)) for version in versions)
    return tuple(shorten(u.metrics.get("train_loss")) if u else None for u in updates)


def weights(state: StudyState, site: str, versions: tuple[int, ...]) -> Column:
    """Return the weight of a site's updates by the version that they went into."""
    out = []
    for version in versions:
        used = [u.weight for u in state.rounds[version].updates if u.site == site]
        out.append(shorten(sum(used)) if used else None)
    return tuple(out)


def lags(state: StudyState, site: str, versions: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return the number of versions that a site's updates were behind, by version."""
    out = []
    for version in versions:
        lags = [
            version - 1 - u.base_version for u in state.rounds[version].updates if u.site == site
        ]
        out.append(max(lags) if lags else None)
    return tuple(out)


def n_bytes(state: StudyState, version: int) -> int:
    """Return the bytes that a version and its updates took."""
    record = state.rounds[version]
    keyframe = record.keyframe.size if record.keyframe else 0
    return record.model.size + keyframe + sum(update.size for update in record.updates)


def seconds(state: StudyState, versions: tuple[int, ...]) -> dict[str, Column]:
    """Return phase -> seconds by version; training is the median over sites."""
    out: dict[str, list[float | None]] = {name: [] for name in _PHASES.values()}
    for version in versions:
        record = state.rounds[version]
        for phase in ("aggregate", "publish"):
            out[_PHASES[phase]].append(shorten(record.seconds.get(phase)))
        trained = [
            sum(state.updates[u.site, u.base_version].seconds.values())
            for u in record.updates
            if (u.site, u.base_version) in state.updates
        ]
        out["training"].append(shorten(median(trained)) if trained else None)
    return {name: tuple(column) for name, column in out.items()}


def shorten(value: float | None) -> float | None:
    """Round a number to the digits that a chart shows, so that thousands take little room."""
    return None if value is None else float(f"{value:.5g}")
