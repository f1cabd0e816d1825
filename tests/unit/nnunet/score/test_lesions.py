"""Lesions that are found, missed and made up, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.nnunet.score.lesions import count_lesions


def lesions(*voxels, shape=(6, 10, 10)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_a_lesion_is_found_by_one_voxel_and_made_up_by_none():
    reference = lesions(np.s_[1, 1:4, 1:4], np.s_[1, 7:9, 7:9], (4, 5, 5))
    prediction = lesions(np.s_[1, 3:5, 3:5], np.s_[4, 0:2, 0:2])
    found = count_lesions(reference, prediction)
    assert (found.n_reference, found.n_found, found.n_false) == (3, 1, 1)
    assert found.sensitivity == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx(2 / (2 + 2 + 1))


def test_voxels_that_touch_with_a_corner_are_one_lesion():
    reference = lesions((1, 1, 1), (2, 2, 2))
    assert count_lesions(reference, reference).n_reference == 1
    flat = lesions((1, 1), (2, 2), shape=(5, 5))
    assert count_lesions(flat, flat).n_reference == 1


def test_one_prediction_over_two_lesions_finds_both():
    reference = lesions((1, 1, 1), (1, 1, 5))
    found = count_lesions(reference, lesions(np.s_[1, 1, 1:6]))
    assert (found.n_found, found.n_false, found.f1) == (2, 0, 1.0)


def test_what_is_not_there_has_no_share():
    empty = lesions()
    found = count_lesions(empty, empty)
    assert (found.sensitivity, found.f1, found.n_false) == (None, None, 0)
    made_up = count_lesions(empty, lesions((1, 1, 1), (4, 4, 4)))
    assert (made_up.sensitivity, made_up.f1, made_up.n_false) == (None, 0.0, 2)


def test_an_image_may_be_a_line():
    line = np.array([True, True, False, True])
    assert count_lesions(line, line).n_reference == 2
