"""Checks of a site's fingerprint before anything is planned with it: could any dataset have it?"""

import numpy as np

from fedfs.aggregation.fingerprint_bounds import (
    FIRST_READ,
    LAST_READ,
    MAX_INTENSITY,
    bounds_of,
    dimension_of,
    largest_m2,
)
from fedfs.aggregation.fingerprints import NO_FOREGROUND
from fedfs.errors import MalformedError
from fedfs.learner import ChannelSketch, SiteFingerprint

MAX_KNOTS = 4096
MAX_CHANNELS = 64
MAX_SHAPE = 100_000
_MAX_SPACING_MM = 1e6
_DIMENSIONS = (2, 3)


def validate_fingerprint(fingerprint: SiteFingerprint) -> None:
    """Check a fingerprint that nobody vouches for; types are as the codec left them.

    Raises:
        MalformedError: naming the field that no dataset could have.
    """
    n_cases = fingerprint.n_cases
    _require(n_cases >= 1, "n_cases", "must be at least 1")
    _require(1 <= len(fingerprint.channels) <= MAX_CHANNELS, "channels", "must be 1 to 64")
    for index, channel in enumerate(fingerprint.channels):
        path = f"channels[{index}]"
        _require(0 <= channel.n_cases <= n_cases, f"{path}.n_cases", "must be 0 to n_cases")
        _validate_channel(channel, path)
    _require(len(fingerprint.geometry) == n_cases, "geometry", "must have one entry per case")
    dimension = dimension_of(fingerprint)
    for index, case in enumerate(fingerprint.geometry):
        path = f"geometry[{index}]"
        _require(
            dimension in _DIMENSIONS
            and len(case.spacing_mm) == len(case.shape_after_crop) == dimension,
            path,
            "must have 2 or 3 axes, as many as all other cases",
        )
        # Comparisons are written so that NaN fails them.
        _require(
            all(0 < spacing <= _MAX_SPACING_MM for spacing in case.spacing_mm),
            f"{path}.spacing_mm",
            "must be positive and at most 1e6",
        )
        _require(
            all(1 <= size <= MAX_SHAPE for size in case.shape_after_crop),
            f"{path}.shape_after_crop",
            f"must be 1 to {MAX_SHAPE}",
        )
        _require(
            0 < case.relative_size_after_cropping <= 1,
            f"{path}.relative_size_after_cropping",
            "must be in (0, 1]",
        )


def _require(condition: bool, path: str, rule: str) -> None:  # noqa: FBT001  reads as a sentence
    if not condition:
        raise MalformedError(rule, about=f"the fingerprint's {path}")


def _validate_channel(channel: ChannelSketch, path: str) -> None:
    if channel.n_cases == 0:
        _require(channel == NO_FOREGROUND, path, "must be empty where no case has foreground")
        return
    probabilities, quantiles = np.asarray(channel.probabilities), np.asarray(channel.quantiles)
    _require(
        1 < len(probabilities) == len(quantiles) <= MAX_KNOTS,
        f"{path}.quantiles",
        f"must be 2 to {MAX_KNOTS}, as many as probabilities",
    )
    _require(
        bool(
            0 <= probabilities[0] <= FIRST_READ
            and LAST_READ <= probabilities[-1] <= 1
            and np.all(np.diff(probabilities) > 0)
        ),
        f"{path}.probabilities",
        f"must ascend, from {FIRST_READ} at most to {LAST_READ} at least, within 0 and 1",
    )
    _require(
        bool(
            quantiles[0] >= -MAX_INTENSITY
            and quantiles[-1] <= MAX_INTENSITY
            and np.all(np.diff(quantiles) >= 0)
        ),
        f"{path}.quantiles",
        "must be finite and ascend",
    )
    low, high = bounds_of(channel)
    _require(low <= channel.mean <= high, f"{path}.mean", "must be between the extremes")
    bound = largest_m2(channel.n_cases, low, high) * (1 + 1e-6)
    _require(0 <= channel.m2 <= bound, f"{path}.m2", "must be possible between the extremes")
