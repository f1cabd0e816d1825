"""Columns of a report: one number for each version, None where it is not known. Pure."""

from collections.abc import Iterable
from statistics import fmean, median

from fedfs.protocol.messages import UsedUpdate
from fedfs.protocol.state import StudyState

Column = tuple[float | None, ...]


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
    used_by_version = _used(state, site, versions)
    return tuple(shorten(sum(u.weight for u in used)) if used else None for used in used_by_version)


def lags(state: StudyState, site: str, versions: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return the number of versions that a site's updates were behind, by version."""
    return tuple(
        max((version - 1 - u.base_version for u in used), default=None)
        for version, used in zip(versions, _used(state, site, versions), strict=True)
    )


def _used(state: StudyState, site: str, versions: tuple[int, ...]) -> list[list[UsedUpdate]]:
    """Return a site's updates by the version that they went into."""
    return [[u for u in state.rounds[v].updates if u.site == site] for v in versions]


def n_bytes(state: StudyState, version: int) -> int:
    """Return the bytes that a version and its updates took."""
    record = state.rounds[version]
    keyframe = record.keyframe.size if record.keyframe else 0
    ema = record.ema.size if record.ema else 0
    return record.model.size + keyframe + ema + sum(update.size for update in record.updates)


def seconds(state: StudyState, versions: tuple[int, ...]) -> dict[str, Column]:
    """Return phase -> seconds by version; training is the median over sites."""
    records = [state.rounds[version] for version in versions]
    keys_by_version = [[(u.site, u.base_version) for u in record.updates] for record in records]
    trained_by_version = (
        [sum(state.updates[key].seconds.values()) for key in keys if key in state.updates]
        for keys in keys_by_version
    )
    return {
        "averaging": tuple(shorten(record.seconds.get("aggregate")) for record in records),
        "publishing": tuple(shorten(record.seconds.get("publish")) for record in records),
        "training": tuple(shorten(median(s)) if s else None for s in trained_by_version),
    }


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def shorten(value: float | None) -> float | None:
    """Round a number to the digits that a chart shows, so that thousands take little room."""
    return None if value is None else float(f"{value:.5g}")
