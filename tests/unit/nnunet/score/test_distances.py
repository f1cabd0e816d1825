"""HD95 and NSD: against distances that can be counted by hand, and all pairs of surface voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from fedfs.nnunet.score.distances import (
    bounding_box,
    hd95_mm,
    long_axes,
    surface_distances,
)


def ball(shape, centre, radius):
    grid = np.indices(shape).astype(float)
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2


def by_all_pairs(one, other, spacing):
    points = []
    for mask in (one, other):
        padded = np.pad(mask, 1)
        surface = padded & ~ndimage.binary_erosion(padded)
        points.append(np.argwhere(surface) * np.asarray(spacing))
    distances = cdist(*points)
    return max(np.percentile(distances.min(axis), 95) for axis in (0, 1))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3.0, 0.8, 0.8), (0.5, 2.0, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_all_pairs_say(spacing, seed):
    rng = np.random.default_rng(seed)
    one = ball((14, 16, 15), rng.uniform(4, 9, 3), rng.uniform(2, 5))
    other = ball((14, 16, 15), rng.uniform(4, 9, 3), rng.uniform(2, 5))
    found = hd95_mm(one, other, spacing)
    assert found == pytest.approx(by_all_pairs(one, other, spacing))
    assert hd95_mm(other, one, spacing) == pytest.approx(found)


def test_equal_masks_are_at_no_distance_and_a_shift_is_its_length():
    mask = np.zeros((1, 20, 20), bool)
    mask[:, 5:10, 5:10] = True
    assert hd95_mm(mask, mask, (5, 1, 1)) == 0
    shifted = np.roll(mask, 4, axis=2)
    assert hd95_mm(mask, shifted, (5, 1, 0.5)) == pytest.approx(2.0)


def test_where_one_is_empty_there_is_no_distance():
    mask = np.zeros((4, 4), bool)
    full = ~mask
    assert hd95_mm(mask, full, (1, 1)) is None
    assert hd95_mm(full, mask, (1, 1)) is None
    assert hd95_mm(full, full, (1, 1)) == 0


def test_nsd_is_the_share_of_both_surfaces_within_the_tolerance():
    """Two cubes one voxel apart: of each, one face is further from the other than the tolerance."""
    mask = np.zeros((9, 9, 12), bool)
    mask[2:7, 2:7, 2:7] = True
    shifted = np.roll(mask, 2, axis=2)
    found = surface_distances(mask, shifted, (1, 1, 0.5))
    assert found is not None
    assert found.nsd(1.0) == 1.0
    assert found.nsd(0.9) < 1.0
    n_far = np.count_nonzero(found.of_reference > 0.9)
    assert found.nsd(0.9) == pytest.approx(1 - 2 * n_far / (2 * len(found.of_reference)))


def test_a_tolerance_of_a_voxel_holds_a_voxel_whatever_the_rounding():
    mask = np.zeros((5, 5, 9), bool)
    mask[1:4, 1:4, 1:4] = True
    found = surface_distances(mask, np.roll(mask, 3, axis=2), (0.1, 0.1, 0.1))
    assert found is not None
    assert found.nsd(0.3) == 1.0


def test_a_box_holds_all_that_is_inside_and_no_more():
    mask = np.zeros((6, 7, 8), bool)
    mask[1, 2, 3] = mask[4, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 5), slice(2, 3), slice(3, 7))
    assert not mask[bounding_box(np.zeros_like(mask))].any()


def test_an_image_of_one_slice_has_no_axis_across():
    assert long_axes((1, 20, 30)) == [1, 2]
    assert long_axes((4, 20, 30)) == [0, 1, 2]
    assert long_axes((1, 1)) == [1]
