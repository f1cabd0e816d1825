"""Pictures are turned as radiologists look at them, whatever the order of the file's axes."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.nnunet.score.orientation import display_of

LPS = np.eye(3)


def of_itk(direction, spacing_mm=(1.0, 1.0, 1.0)):
    """Properties as of nnU-Net's SimpleITKIO: the spacing is that of Z, Y, X."""
    return {
        "spacing": spacing_mm,
        "sitk_stuff": {"direction": tuple(np.asarray(direction, float).ravel())},
    }


def test_an_image_that_lies_as_dicom_does_is_not_turned():
    display = display_of(of_itk(LPS))
    assert display.axes == (0, 1, 2)
    assert display.flips == ()
    assert (display.plane, display.left, display.top) == ("axial", "R", "A")


def test_nifti_axes_to_the_right_and_to_the_front_are_turned_round():
    ras = np.diag([-1, -1, 1])
    array = np.arange(8).reshape(2, 2, 2)  # x grows to the left of the patient, y to the back
    shown = display_of(of_itk(ras)).arranged(array)
    assert (shown == array[:, ::-1, ::-1]).all()


def test_readers_of_nifti_and_of_itk_agree():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])  # RAS
    by_nibabel = {"spacing": (5, 2, 2), "nibabel_stuff": {"original_affine": affine}}
    assert display_of(by_nibabel) == display_of(of_itk(np.diag([-1, -1, 1]), (5, 2, 2)))


@pytest.mark.parametrize(
    ("spacing_mm", "plane", "top", "left"),
    [
        ((1, 1, 4), "sagittal", "S", "A"),
        ((1, 4, 1), "coronal", "S", "R"),
        ((4, 1, 1), "axial", "A", "R"),
        ((1, 1, 1.1), "axial", "A", "R"),
    ],
)
def test_slices_lie_as_they_were_acquired(spacing_mm, plane, top, left):
    display = display_of(of_itk(LPS, spacing_mm))
    assert (display.plane, display.top, display.left) == (plane, top, left)


def test_a_sagittal_image_shows_the_head_above():
    array = np.arange(24).reshape(2, 3, 4)  # z grows upwards, y to the back
    shown = display_of(of_itk(LPS, (1, 1, 4))).arranged(array)
    assert shown.shape == (4, 2, 3)
    assert (shown[0] == array[::-1, :, 0]).all()


@pytest.mark.parametrize(
    "properties",
    [
        {"spacing": (999, 1, 1)},
        {"spacing": (999, 1, 1), "sitk_stuff": {"direction": (1, 0, 0, 1)}},
        of_itk([[0.8, 0.8, 0], [0.6, 0.6, 0], [0, 0, 1]]),
    ],
)
def test_what_is_not_known_is_not_told(properties):
    display = display_of(properties)
    assert (display.axes, display.flips, display.left) == ((0, 1, 2), (), "")
