"""Say less with a fingerprint: no extremes, rounded numbers, no list of cases.

Rules:
 * What is published stays a fingerprint like any other: whoever merges it need not know.
 * Without extremes a sketch begins at the first knot from :data:`TAIL` on at which something else
   than the smallest voxel lies, and ends likewise; but the percentiles that nnU-Net clips by stay.
   Of a foreground so small, or so alike, that these are the extremes, they are given.
 * Instead of a line for each case there are a few quantiles of each axis' spacing and extent, each
   axis by itself, as often as it takes for the number of cases. Extents, which decide about
   nnU-Net's patch size, keep their median.
 * A site with few cases gives fewer quantiles, one for every two cases and at least the median.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from fedfs.aggregation.fingerprint_bounds import FIRST_READ, LAST_READ, bounds_of, largest_m2
from fedfs.aggregation.fingerprint_checks import MAX_SHAPE
from fedfs.learner import CaseGeometry, ChannelSketch, SiteFingerprint

TAIL = 0.0005
"""Share of the foreground at each end that a sketch without extremes does not describe."""


def coarsen(
    fingerprint: SiteFingerprint,
    *,
    extremes: bool,
    digits: int | None = None,
    quantiles: int | None = None,
) -> SiteFingerprint:
    """Return what a site publishes instead of its fingerprint.

    Args:
        fingerprint: as measured.
        extremes: whether the smallest and the largest voxel of each channel are given.
        digits: significant decimal digits of every number that is no count; None keeps all.
        quantiles: so many for each axis in place of one line per case; None keeps the lines.
    """
    geometry = fingerprint.geometry
    if quantiles is not None:
        geometry = _summary(geometry, max(1, min(quantiles, len(geometry) // 2)))
    channels = fingerprint.channels
    if not extremes:
        channels = tuple(_without_extremes(channel) for channel in channels)
    if digits is not None:
        channels = tuple(_rounded_channel(channel, digits) for channel in channels)
        geometry = tuple(_rounded_case(case, digits) for case in geometry)
    return SiteFingerprint(fingerprint.n_cases, channels, geometry)


def excess(
    fingerprint: SiteFingerprint, *, extremes: bool, digits: int | None, quantiles: int | None
) -> str:
    """Return what a fingerprint holds beyond what :func:`coarsen` leaves in it; "" if nothing."""
    probabilities = {p for channel in fingerprint.channels for p in channel.probabilities}
    if not extremes and not all(TAIL <= p <= 1 - TAIL for p in probabilities):
        return "the smallest and the largest voxel"
    if digits is not None and not all(_round(v, digits) == v for v in _numbers(fingerprint)):
        return f"numbers of more than {digits} digits"
    if quantiles is not None and len(set(fingerprint.geometry)) > quantiles:
        return f"more than {quantiles} sizes and spacings"
    return ""


def _numbers(fingerprint: SiteFingerprint) -> Iterator[float]:
    """Yield what is rounded; not ``m2``, which rounding may have to cut."""
    for channel in fingerprint.channels:
        yield from (channel.mean, *channel.quantiles)
    for case in fingerprint.geometry:
        yield from (*case.spacing_mm, case.relative_size_after_cropping)


def _without_extremes(channel: ChannelSketch) -> ChannelSketch:
    knots = list(zip(channel.probabilities, channel.quantiles, strict=True))
    if not knots:
        return channel
    (_, smallest), (_, largest) = knots[0], knots[-1]
    kept = [
        (p, value)
        for p, value in knots
        if FIRST_READ <= p <= LAST_READ or (TAIL <= p <= 1 - TAIL and smallest < value < largest)
    ]
    probabilities, quantiles = zip(*kept, strict=True)
    return dataclasses.replace(channel, probabilities=probabilities, quantiles=quantiles)


def _summary(cases: Sequence[CaseGeometry], k: int) -> tuple[CaseGeometry, ...]:
    n_cases = len(cases)
    spacing = np.array([case.spacing_mm for case in cases], dtype=np.float64)
    extent = spacing * np.array([case.shape_after_crop for case in cases], dtype=np.float64)
    kept = np.array([case.relative_size_after_cropping for case in cases], dtype=np.float64)
    probabilities = (np.arange(k) + 0.5) / k
    spacings = np.quantile(spacing, probabilities, axis=0)
    shapes = np.maximum(1, np.rint(np.quantile(extent, probabilities, axis=0) / spacings))
    relative = np.quantile(kept, probabilities)
    lines = [
        CaseGeometry(
            tuple(float(mm) for mm in spacings[i]),
            tuple(int(n) for n in shapes[i]),
            float(relative[i]),
        )
        for i in range(k)
    ]
    return tuple(lines[case * k // n_cases] for case in range(n_cases))


def _rounded_channel(channel: ChannelSketch, digits: int) -> ChannelSketch:
    if not channel.n_cases:
        return channel
    values = tuple(_round(value, digits) for value in channel.quantiles)
    rounded = dataclasses.replace(channel, mean=_round(channel.mean, digits), quantiles=values)
    # Rounding may draw the extremes together, and no values between them spread so far then.
    most = largest_m2(channel.n_cases, *bounds_of(rounded))
    return dataclasses.replace(rounded, m2=min(_round(channel.m2, digits), most))


def _rounded_case(case: CaseGeometry, digits: int) -> CaseGeometry:
    return CaseGeometry(
        tuple(_round(mm, digits) for mm in case.spacing_mm),
        tuple(min(MAX_SHAPE, max(1, int(_round(n, digits)))) for n in case.shape_after_crop),
        min(1.0, _round(case.relative_size_after_cropping, digits)),
    )


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}")
