"""Bounds of the values of a fingerprint, for those who make, merge, coarsen and check one."""

import numpy as np

from fedfs.learner import ChannelSketch, SiteFingerprint

MAX_INTENSITY = float(np.finfo(np.float32).max)
FIRST_READ, LAST_READ = 0.005, 0.995
"""Probabilities of the outermost percentiles that nnU-Net's normalisations read."""


def bounds_of(channel: ChannelSketch) -> tuple[float, float]:
    """Return two numbers between which all intensities lie: the extremes, where they are given."""
    has_first, has_last = channel.probabilities[0] == 0, channel.probabilities[-1] == 1
    return (
        channel.quantiles[0] if has_first else -MAX_INTENSITY,
        channel.quantiles[-1] if has_last else MAX_INTENSITY,
    )


def largest_m2(n_cases: int, minimum: float, maximum: float) -> float:
    """Return the largest ``m2`` that values between two others can have.

    Popoviciu: a variance is at most a quarter of the squared width.
    """
    return n_cases * (maximum - minimum) ** 2 / 4


def dimension_of(fingerprint: SiteFingerprint) -> int:
    """Return the number of axes of its cases, 2 or 3."""
    return len(fingerprint.geometry[0].spacing_mm)
