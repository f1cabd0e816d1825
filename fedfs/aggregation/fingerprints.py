"""Dataset fingerprints that can be merged: Federated Fingerprint Extraction (FFE).

nnU-Net draws the same number of foreground voxels, with replacement, from every case that has
foreground. The distribution it describes is therefore the equal-weight mixture of the cases'
foreground distributions, and the federated one is the mixture of the sites' with the number of such
cases as weight.

Rules:
 * n, mean and m2 (hence std) merge exactly (Chan, Golub and LeVeque 1979).
 * Quantiles merge through the quantile function at :data:`KNOTS`: the weighted sum of the sites'
   piecewise linear distribution functions is inverted. What is lost is bounded in probability by
   the distance between knots: 0.0015 at most, and about 0.00025 at the percentiles 0.5 and 99.5.
 * Averaging the sites' std, median and percentiles, as the published reference does, describes no
   distribution at all: between sites of unlike scanners it is wrong by a factor.
 * At a probability where the distribution has a gap, the quantile is the middle of the gap.
 * The knots 0 and 1 are the extremes, two real voxels. No normalisation of nnU-Net reads them, and
   a site leaves them out with the knots beside them (:mod:`fedfs.aggregation.disclosure`): what
   lies beyond its first and last knot then counts as lying there, and the merged sketch begins and
   ends where the shortest does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.aggregation.fingerprint_bounds import (
    FIRST_READ,
    LAST_READ,
    MAX_INTENSITY,
    bounds_of,
    dimension_of,
    largest_m2,
)
from fedfs.errors import BROKEN_CASE_HINT, DatasetError, MalformedError, StudyError
from fedfs.learner import ChannelSketch, SiteFingerprint

FloatArray = npt.NDArray[np.floating[Any]]
Vector = npt.NDArray[np.float64]

MAX_ORDER_STATISTICS = 50_000
"""Order statistics that one case contributes to the quantiles."""
_PERCENTILES = {"percentile_00_5": FIRST_READ, "median": 0.5, "percentile_99_5": LAST_READ}

# Half the width of the probability interval whose ends are averaged: wider than the rounding of a
# cumulative sum, narrower than any step worth resolving.
_GAP = 1e-9


def _knots(intervals: int = 1022) -> tuple[float, ...]:
    # Smoothstep is dense at both ends and made of +, - and * only: the same bits on every machine.
    steps = (i / intervals for i in range(intervals + 1))
    return tuple(sorted({t * t * (3.0 - 2.0 * t) for t in steps} | set(_PERCENTILES.values())))


KNOTS: tuple[float, ...] = _knots()
"""Probabilities at which quantile functions are exchanged; 0, 0.005, 0.5, 0.995 and 1 are among."""

NO_FOREGROUND = ChannelSketch(n_cases=0, mean=0.0, m2=0.0, probabilities=(), quantiles=())
"""The neutral element of :func:`merge_channels`: a channel without foreground in any case."""


@dataclass(frozen=True, eq=False)
class CaseSketch:
    """Foreground of one case in one channel; all its voxels together weigh 1.

    Attributes:
        n_voxels: foreground voxels; 0 makes the other fields meaningless.
        mean: mean of all voxels.
        variance: mean squared deviation of all voxels.
        values: distinct order statistics, ascending, from the smallest voxel to the largest.
        weights: share of the case's order statistics that each value stands for.
    """

    n_voxels: int
    mean: float
    variance: float
    values: FloatArray
    weights: Vector


def sketch_case(values: npt.NDArray[Any]) -> CaseSketch:
    """Describe one case's foreground so that its voxels can be let go.

    Args:
        values: foreground intensities of one channel, any shape and real type, possibly empty.

    Raises:
        DatasetError: an intensity is NaN, infinite or too large for float32.
    """
    ordered = np.sort(values, axis=None)
    n_voxels = ordered.size
    if n_voxels == 0:
        return CaseSketch(0, 0.0, 0.0, np.empty(0), np.empty(0))
    exact = ordered.astype(np.float64)
    # Sorting puts NaN last, and comparing with NaN is false.
    if not (exact[0] >= -MAX_INTENSITY and exact[-1] <= MAX_INTENSITY):
        raise DatasetError(
            "The foreground of an image holds NaN or infinite intensities.",
            hint=BROKEN_CASE_HINT,
        )
    mean = float(exact.mean())
    variance = float(np.square(exact - mean).mean())
    if n_voxels > MAX_ORDER_STATISTICS:
        picks = np.linspace(0, n_voxels - 1, MAX_ORDER_STATISTICS).round().astype(np.int64)
        ordered = ordered[picks]
    distinct, counts = np.unique(ordered, return_counts=True)
    return CaseSketch(
        n_voxels=n_voxels,
        mean=mean,
        variance=variance,
        values=distinct,
        weights=counts / ordered.size,
    )


def mix_cases(cases: Sequence[CaseSketch]) -> ChannelSketch:
    """Mix cases with equal weight, those without foreground left out.

    Mean, m2 and the extremes are exact; the quantiles are those of the weighted empirical
    distribution of the cases' order statistics.
    """
    cases = [case for case in cases if case.n_voxels]
    if not cases:
        return NO_FOREGROUND
    values = np.concatenate([case.values for case in cases]).astype(np.float64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    cumulative = np.cumsum(np.concatenate([case.weights for case in cases])[order])
    cumulative /= cumulative[-1]
    knots = np.asarray(KNOTS)
    last = values.size - 1
    below = values[np.minimum(np.searchsorted(cumulative, knots - _GAP), last)]
    above = values[np.minimum(np.searchsorted(cumulative, knots + _GAP), last)]
    moments = _pool([(1, case.mean, case.variance) for case in cases])
    return _channel(len(cases), moments, knots, (below + above) / 2, extremes=values[[0, -1]])


def merge_channels(sketches: Sequence[ChannelSketch]) -> ChannelSketch:
    """Merge sketches of the same channel, weighted by their number of cases with foreground.

    Commutative; associative up to rounding in the exact parts and up to the distance between knots
    in the quantiles. Sketches without cases are neutral, and a single sketch is returned as it is.
    """
    sketches = [sketch for sketch in sketches if sketch.n_cases]
    if not sketches:
        return NO_FOREGROUND
    if len(sketches) == 1:
        return sketches[0]
    n_cases = sum(sketch.n_cases for sketch in sketches)
    grid = np.unique(np.concatenate([sketch.quantiles for sketch in sketches]))
    limits = np.zeros((2, grid.size))
    for sketch in sketches:
        limits += sketch.n_cases / n_cases * _distribution(sketch, grid)
    # (left limit, right limit) of every grid value in turn: an atom is a vertical step.
    probability = np.maximum.accumulate(limits.T.ravel())
    value = np.repeat(grid, 2)
    first = max(sketch.probabilities[0] for sketch in sketches)
    last = min(sketch.probabilities[-1] for sketch in sketches)
    knots = np.asarray([knot for knot in KNOTS if first <= knot <= last])
    below = np.interp(knots - _GAP, probability, value)
    above = np.interp(knots + _GAP, probability, value)
    moments = _pool([(s.n_cases, s.mean, s.m2) for s in sketches])
    return _channel(n_cases, moments, knots, (below + above) / 2, extremes=grid[[0, -1]])


def merge_fingerprints(fingerprints: Mapping[str, SiteFingerprint]) -> SiteFingerprint:
    """Merge validated fingerprints.

    Geometries come sorted, so that their order does not say whose cases they are; planning takes
    medians and does not care.

    Raises:
        MalformedError: naming the first site whose channels or dimensions disagree with the others.
        StudyError: there is no fingerprint.
    """
    if not fingerprints:
        raise StudyError("No site has published a fingerprint.")
    sites = sorted(fingerprints)
    parts = [fingerprints[site] for site in sites]
    first = parts[0]
    for site, part in zip(sites, parts, strict=True):
        if len(part.channels) != len(first.channels):
            raise MalformedError(
                f"has {len(part.channels)} channels, "
                f"that of {sites[0]!r} has {len(first.channels)}",
                about=f"the fingerprint of site {site!r}",
            )
        if part.geometry and first.geometry and dimension_of(part) != dimension_of(first):
            raise MalformedError(
                f"is {dimension_of(part)}-dimensional, "
                f"that of {sites[0]!r} is {dimension_of(first)}-dimensional",
                about=f"the fingerprint of site {site!r}",
            )
    return SiteFingerprint(
        n_cases=sum(part.n_cases for part in parts),
        channels=tuple(
            merge_channels(same) for same in zip(*(p.channels for p in parts), strict=True)
        ),
        geometry=tuple(sorted((case for part in parts for case in part.geometry), key=astuple)),
    )


def to_nnunet(fingerprint: SiteFingerprint) -> dict[str, Any]:
    """Return the content of nnU-Net's ``dataset_fingerprint.json`` in plain Python values.

    Raises:
        MalformedError: a channel has no foreground in any case, so it cannot be normalised.
    """
    channels = {}
    for index, channel in enumerate(fingerprint.channels):
        if channel.n_cases == 0:
            raise MalformedError(
                "has no foreground voxel in any case of the federation",
                about=f"channel {index}",
                hint="check that the sites' segmentations hold the labels of dataset.json",
            )
        channels[str(index)] = {
            "mean": float(channel.mean),
            "std": math.sqrt(channel.m2 / channel.n_cases),
            **_extremes(channel),
            **{
                name: float(np.interp(probability, channel.probabilities, channel.quantiles))
                for name, probability in _PERCENTILES.items()
            },
        }
    relative_sizes = [case.relative_size_after_cropping for case in fingerprint.geometry]
    return {
        "spacings": [[float(mm) for mm in case.spacing_mm] for case in fingerprint.geometry],
        "shapes_after_crop": [[int(n) for n in c.shape_after_crop] for c in fingerprint.geometry],
        "foreground_intensity_properties_per_channel": channels,
        "median_relative_size_after_cropping": float(np.median(relative_sizes)),
    }


def _extremes(channel: ChannelSketch) -> dict[str, float]:
    """Return nnU-Net's ``min`` and ``max``, where the sketch holds both."""
    if (channel.probabilities[0], channel.probabilities[-1]) != (0, 1):
        return {}
    return {"min": float(channel.quantiles[0]), "max": float(channel.quantiles[-1])}


def _pool(parts: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Pool (n, mean, m2); exactly rounded sums make the order of the parts irrelevant."""
    mean = math.fsum(n * mean for n, mean, _ in parts) / sum(n for n, _, _ in parts)
    between = math.fsum(n * (part - mean) ** 2 for n, part, _ in parts)
    return mean, math.fsum(m2 for _, _, m2 in parts) + between


def _distribution(sketch: ChannelSketch, grid: Vector) -> npt.NDArray[np.float64]:
    """Left and right limits of the sketch's distribution function at ``grid``, shape (2, n)."""
    quantiles = np.asarray(sketch.quantiles)
    probabilities = np.asarray(sketch.probabilities)
    limits = np.empty((2, grid.size))
    for row, side in enumerate(("left", "right")):
        # How many quantiles are below the grid value (left) or not above it (right).
        reached = np.searchsorted(quantiles, grid, side=side)  # type: ignore[call-overload]
        inside = (reached > 0) & (reached < quantiles.size)
        upper = np.clip(reached, 1, quantiles.size - 1)
        lower = upper - 1
        width = np.where(inside, quantiles[upper] - quantiles[lower], 1.0)  # positive inside
        share = np.where(inside, (grid - quantiles[lower]) / width, 0.0)
        ramp = probabilities[lower] + share * (probabilities[upper] - probabilities[lower])
        limits[row] = np.where(inside, ramp, reached > 0)
    return limits


def _channel(
    n_cases: int,
    moments: tuple[float, float],
    knots: Vector,
    quantiles: Vector,
    *,
    extremes: Vector,
) -> ChannelSketch:
    """Return a sketch; ``extremes`` are the least and the greatest value that is described."""
    low, high = float(extremes[0]), float(extremes[1])
    if knots[0] == 0:
        quantiles[0] = low
    if knots[-1] == 1:
        quantiles[-1] = high
    quantiles = np.maximum.accumulate(np.clip(quantiles, low, high))
    mean, m2 = moments
    sketch = ChannelSketch(n_cases, mean, m2, tuple(knots.tolist()), tuple(quantiles.tolist()))
    low, high = bounds_of(sketch)
    return replace(
        sketch,
        mean=min(max(mean, low), high),
        m2=min(m2, largest_m2(n_cases, low, high)),  # a constant has exactly none
    )
