"""Say less with a fingerprint: rounded numbers, and no list of cases.

Rules:
 * What is published stays a fingerprint like any other: whoever merges it need not know.
 * Instead of a line for each case there are a few quantiles of each axis' spacing and extent, each
   axis by itself, as often as it takes for the number of cases. Extents, which decide about
   nnU-Net's patch size, keep their median.
 * A site with few cases gives fewer quantiles, one for every two cases and at least the median.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fedfs.aggregation.fingerprint_checks import MAX_SHAPE
from fedfs.aggregation.fingerprints import largest_m2
from fedfs.learner import CaseGeometry, ChannelSketch, SiteFingerprint


def coarsen(
    fingerprint: SiteFingerprint, *, digits: int | None = None, quantiles: int | None = None
) -> SiteFingerprint:
    """Return what a site publishes instead of its fingerprint.

    Args:
        fingerprint: as measured.
        digits: significant decimal digits of every number that is no count; None keeps all.
        quantiles: so many for each axis in place of one line per case; None keeps the lines.
    """
    geometry = fingerprint.geometry
    if quantiles is not None:
        geometry = _summary(geometry, max(1, min(quantiles, len(geometry) // 2)))
    if digits is None:
        return dataclasses.replace(fingerprint, geometry=geometry)
    return SiteFingerprint(
        fingerprint.n_cases,
        tuple(_rounded_channel(channel, digits) for channel in fingerprint.channels),
        tuple(_rounded_case(case, digits) for case in geometry),
    )


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
    values = tuple(_round(value, digits) for value in channel.quantiles)
    minimum, maximum = _round(channel.minimum, digits), _round(channel.maximum, digits)
    # Rounding may draw the extremes together, and no values between them spread so far then.
    most = largest_m2(channel.n_cases, minimum, maximum)
    return dataclasses.replace(
        channel,
        mean=_round(channel.mean, digits),
        m2=min(_round(channel.m2, digits), most),
        minimum=minimum,
        maximum=maximum,
        quantiles=values,
    )


def _rounded_case(case: CaseGeometry, digits: int) -> CaseGeometry:
    return CaseGeometry(
        tuple(_round(mm, digits) for mm in case.spacing_mm),
        tuple(min(MAX_SHAPE, max(1, int(_round(n, digits)))) for n in case.shape_after_crop),
        min(1.0, _round(case.relative_size_after_cropping, digits)),
    )


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}")
