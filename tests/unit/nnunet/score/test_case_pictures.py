"""Pictures show where a model errs, in outlines that lie on the pixels."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from fedfs.errors import TrainingError
from fedfs.nnunet.score.case_pictures import _grey_range, take_pictures
from fedfs.nnunet.score.outlines import grey_png, outline
from support.shown_cases import dataset_json, write_cases


def test_an_outline_runs_around_its_pixels():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    made = outline(1, mask)
    numbers = [int(n) for n in re.findall(r"-?\d+", made.path)]
    points = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)  # in half pixels
    assert points[:, 0].min() == 2 * 2
    assert points[:, 0].max() == 2 * 5
    assert points[:, 1].min() == 2 * 1
    assert points[:, 1].max() == 2 * 3
    assert made.at[0] == pytest.approx(5 / 6)


def test_a_picture_is_made_smaller_until_it_fits():
    noise = np.random.default_rng(0).normal(size=(300, 300))
    png = grey_png(noise, (-2, 2), max_bytes=20_000)
    assert len(png) <= 20_000
    assert Image.open(io.BytesIO(png)).width > 50


def test_slices_show_the_errors_of_the_ranked_model(tmp_path):
    content = dataset_json()
    (view,) = write_cases(tmp_path, {"local": [5], "federated": [0]}, content)
    path = view.predictions["federated"]
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(view.reference)))
    holding = np.flatnonzero(reference.any(axis=(1, 2)))
    array[holding[0]] = 0  # missed where the structure begins
    array[holding[-1], 2:5, 2:5] = 1  # and too much where it ends
    wrong = SimpleITK.GetImageFromArray(array)
    wrong.CopyInformation(image)
    SimpleITK.WriteImage(wrong, str(path))
    shown = take_pictures([view], content, ranked_by="federated")["case_0"]
    numbers = [one.number - 1 for one in shown.slices]
    assert numbers[0] == holding[0]
    assert numbers[2] == holding[-1]
    areas = (reference != 0).sum(axis=(1, 2))
    assert areas[numbers[1]] == areas.max()  # no error there: the largest
    assert shown.slices[0].models["federated"] == ()
    assert shown.slices[0].models["local"]
    assert shown.hd95_mm["local"]["shell"] > shown.hd95_mm["federated"]["shell"]


def test_a_channel_can_be_chosen(tmp_path):
    content = dataset_json()
    views = write_cases(tmp_path, {"federated": [1]}, content)
    greys = [
        take_pictures(views, content, ranked_by="federated", channel=c)["case_0"].grey
        for c in (0, 1)
    ]
    assert greys[1][0] > greys[0][1]


def test_black_and_white_are_chosen_for_the_structure():
    image, structure = np.full((1, 20, 20), -1000.0), np.zeros((1, 20, 20), bool)
    image[0, 5:15, 5:15] = np.linspace(0, 100, 10)
    structure[0, 5:15, 5:15] = True
    assert _grey_range(image, structure) == pytest.approx((-100, 100), abs=1)


def test_what_is_not_annotated_is_no_error(tmp_path):
    content = dataset_json(labels={"background": 0, "shell": 1, "ignore": 2})
    views = write_cases(tmp_path, {"federated": [0]}, content)
    shown = take_pictures(views, content, ranked_by="federated")["case_0"]
    assert any(one.unannotated for one in shown.slices)


def test_a_damaged_image_is_named(tmp_path):
    content = dataset_json()
    views = write_cases(tmp_path, {"federated": [1, 2]}, content)
    path = views[1].predictions["federated"]
    path.write_bytes(path.read_bytes()[:-20])
    broken = {}
    shown = take_pictures(views, content, ranked_by="federated", on_broken=broken.__setitem__)
    assert list(shown) == ["case_0"]
    assert "case_1.nii.gz is damaged or ends early" in broken["case_1"]
    with pytest.raises(TrainingError, match="case_1"):
        take_pictures(views, content, ranked_by="federated")
