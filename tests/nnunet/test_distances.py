"""HD95: against distances that can be counted by hand, and all pairs of surface voxels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from fedfs.nnunet.score.distances import hd95_by_case, hd95_mm, mean_by_class


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


class Reader:
    """Gives segmentations by name."""

    def __init__(self, segmentations):
        self.segmentations = segmentations

    def read_seg(self, name):
        return self.segmentations[name][None], {"spacing": (2.0, 1.0, 1.0)}


class NaturalImage2DIO(Reader):
    """Named as nnU-Net's reader of images without a scale."""


def test_classes_are_averaged_over_cases_in_which_they_are_defined(tmp_path):
    reference = np.zeros((3, 12, 12), int)
    reference[1, 2:6, 2:6] = 1
    prediction = np.roll(reference, 2, axis=1)
    empty = np.zeros_like(reference)
    files = {"a": reference, "b": reference, "c": reference, "p": prediction, "e": empty}
    pairs = (("a", "p"), ("b", "b"), ("c", "e"))
    cases = [{"reference_file": r, "prediction_file": p} for r, p in pairs]
    (tmp_path / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    labels = {"organ": (1,), "lesion": (2,), "both": (1, 2)}
    seen = []
    found = hd95_by_case(tmp_path / "summary.json", labels, Reader(files), seen.append)
    assert list(found) == ["a", "b", "c"]
    assert mean_by_class(found) == {"organ": pytest.approx(1.0), "both": pytest.approx(1.0)}
    assert len(seen) == 3
    natural = NaturalImage2DIO(files)
    assert hd95_by_case(tmp_path / "summary.json", labels, natural, seen.append) == {}
