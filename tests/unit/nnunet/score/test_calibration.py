"""Expected calibration error of probabilities whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.nnunet.score.calibration import calibration_error


def test_probabilities_that_come_true_have_no_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    assert calibration_error(rng.uniform(size=p.size) < p, p) < 0.01


def test_certainty_that_is_wrong_is_all_error():
    reference = np.array([[True, False], [True, False]])
    assert calibration_error(reference, np.where(reference, 0.0, 1.0)) == 1.0
    assert calibration_error(reference, np.where(reference, 1.0, 0.0)) == 0.0


def test_it_is_the_difference_in_bins_and_not_of_voxels():
    """Of ten voxels of 0.75, eight are of the class; of ten of 0.25, none."""
    reference = np.array([True] * 8 + [False] * 12)
    p = np.array([0.75] * 10 + [0.25] * 10)
    assert calibration_error(reference, p) == pytest.approx((0.05 + 0.25) / 2)


def test_without_voxels_there_is_none():
    assert calibration_error(np.zeros((0, 3), bool), np.zeros((0, 3))) is None
