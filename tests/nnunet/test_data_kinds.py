"""Every kind of data that nnU-Net reads, from the images to the validated model."""

import json

import numpy as np
import pytest
import SimpleITK
import tifffile
from life import in_this_process, live, settings
from plain import seed_streams
from skimage import io
from synthetic import LABELS, Reports, dataset_json, ellipsoids, make_paths, task, write_dataset

from fedfs.errors import DatasetError, TrainingError, UserError
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.fingerprint import reader_name
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.score.distances import hd95_mm
from fedfs.nnunet.score.summary import class_values
from fedfs.simulation.cases import place_dataset
from fedfs.tensors.canonical import weights_sha256, write_safetensors

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers", "forked_pools")]

NAME = "Dataset902_Kinds"
N_CASES = 5
SPACING_MM = (3.0, 1.0, 1.0)


def itk(array, path):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(mm) for mm in SPACING_MM[::-1]])
    SimpleITK.WriteImage(image, str(path))


def tif(array, path):
    tifffile.imwrite(path, array)
    name = path.name.removesuffix(".tif").removesuffix("_0000").removesuffix("_0001")
    path.with_name(f"{name}.json").write_text(json.dumps({"spacing": SPACING_MM}))


def write(paths, content, *, save, relabel=lambda label: label, rgb=False):
    """Write ellipsoids; a channel differs from another by its noise.

    Args:
        paths: nnU-Net's folders.
        content: ``dataset.json``.
        save: writes an array to a path.
        relabel: changes the segmentations.
        rgb: one flat image holds all channels, colours last.
    """
    rng, ending = np.random.default_rng(0), content["file_ending"]
    folder = paths.raw / NAME
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for i in range(N_CASES):
        image, label = ellipsoids(rng, (6, 32, 28), 60.0)
        channels = [image + rng.normal(0, 5, image.shape) for _ in content["channel_names"]]
        if rgb:
            channels = [np.stack([channel[3] for channel in channels], -1).clip(0, 255)]
        for number, channel in enumerate(channels):
            kind = np.uint8 if rgb else np.float32
            save(channel.astype(kind), folder / "imagesTr" / f"c{i}_{number:04d}{ending}")
        label = relabel(label)
        save(label[3] if rgb else label, folder / "labelsTr" / f"c{i}{ending}")
    (folder / "dataset.json").write_text(json.dumps(content))


def with_unlabelled_voxels(label):
    label = label.copy()
    label[:, :4] = 3
    return label


KINDS = {
    "rgb": (
        dataset_json(channel_names={"0": "R", "1": "G", "2": "B"}, file_ending=".png"),
        {"save": lambda a, p: io.imsave(p, a, check_contrast=False), "rgb": True},
        "NaturalImage2DIO",
    ),
    "two channels": (
        dataset_json(channel_names={"0": "T1", "1": "T2"}, file_ending=".nrrd"),
        {"save": itk},
        "SimpleITKIO",
    ),
    "tif": (
        dataset_json(channel_names={"0": "light", "1": "electrons"}, file_ending=".tif"),
        {"save": tif},
        "Tiff3DIO",
    ),
    "regions": (
        dataset_json(
            labels={"background": 0, "whole": [1, 2], "core": 2},
            regions_class_order=[1, 2],
            file_ending=".mha",
        ),
        {"save": itk},
        "SimpleITKIO",
    ),
    "ignore": (
        dataset_json(labels={**LABELS, "ignore": 3}, file_ending=".nii.gz"),
        {"save": itk, "relabel": with_unlabelled_voxels},
        "SimpleITKIO",
    ),
}


def hd95_of(life, paths, reader_name, ending):
    """Return class -> mean HD95 in mm, from the raw labels and with the images' true spacing."""
    from nnunetv2.imageio.reader_writer_registry import (  # noqa: PLC0415  heavy
        recursive_find_reader_writer_by_name,
    )

    reader = recursive_find_reader_writer_by_name(reader_name)()
    labels = json.loads((life.model / "dataset.json").read_text())
    found = {}
    for predicted in (life.model / "fold_0" / "validation").glob(f"*{ending}"):
        arrays = [
            reader.read_seg(str(path))[0][0]
            for path in (paths.raw / NAME / "labelsTr" / predicted.name, predicted)
        ]
        for name, values in class_values(labels).items():
            counted = arrays[0] != labels["labels"].get("ignore", -1)
            masks = [np.isin(array, values) & counted for array in arrays]
            found.setdefault(name, []).append(hd95_mm(*masks, SPACING_MM))
    return {name: mm[0] for name, mm in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_measured_planned_trained_on_and_validated(paths, tmp_path, kind):
    content, how, reader = KINDS[kind]
    write(paths, content, **how)
    life = live(paths, tmp_path, NAME, content)
    classes = [name for name in content["labels"] if name not in ("background", "ignore")]
    assert list(life.evaluated.classes) == list(life.finished.classes) == classes
    assert (life.trained.n_iterations, life.trained.n_training_cases) == (2, 4)
    assert (life.evaluated.n_cases, life.finished.n_cases) == (1, 1)
    adopted = json.loads((life.model / "plans.json").read_text())
    assert adopted["image_reader_writer"] == reader
    configurations = adopted["configurations"]
    n_channels = len(content["channel_names"])
    assert len(configurations["2d"]["normalization_schemes"]) == n_channels
    distances = {name: score.hd95_mm for name, score in life.finished.classes.items()}
    if kind == "rgb":
        assert set(configurations) == {"2d"}
        assert set(distances.values()) == {None}
    else:
        assert configurations["3d_fullres"]["spacing"] == list(SPACING_MM)
        assert distances == pytest.approx(hd95_of(life, paths, reader, content["file_ending"]))
        assert any(distances.values())


def test_readers_that_are_tried_in_vain_say_so_in_the_log_only(paths, capfd, caplog):
    """nnU-Net tries the one for natural images on every TIFF file, and prints its traceback."""
    caplog.set_level("DEBUG")
    content, how, reader = KINDS["tif"]
    write(paths, content, **how)
    assert reader_name(RawDataset.open(paths, NAME)) == reader
    assert capfd.readouterr() == ("", "")
    assert "AssertionError" in caplog.text


@pytest.mark.parametrize("kind", ["rgb", "tif"])
def test_a_simulated_sites_dataset_has_all_that_belongs_to_its_cases(paths, tmp_path, kind):
    content, how, _ = KINDS[kind]
    write(paths, content, **how)
    place_dataset(paths.raw / NAME, tmp_path / "site", ["c1", "c3"], prefix="north-")
    found = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").glob("*/*")}
    expected = {
        path.relative_to(paths.raw / NAME)
        for path in (paths.raw / NAME).glob("*/*")
        if path.name[:2] in ("c1", "c3")
    }
    assert found == {str(path.with_name(f"north-{path.name}")) for path in expected}
    if kind == "rgb":
        (paths.raw / NAME / "imagesTr" / "c1_0000.png").unlink()
        with pytest.raises(UserError, match="lacks imagesTr/c1_0000.png"):
            place_dataset(paths.raw / NAME, tmp_path / "again", ["c1"])


@pytest.mark.parametrize("kind", ["tif", "regions"])
def test_another_sites_model_scores_as_in_the_sites_own_validation(
    paths, tmp_path, monkeypatch, kind
):
    """In its own spacing, which nnU-Net's reader of TIFF takes from a file beside the image; and
    with regions in the order that decides which output of the network is which."""
    monkeypatch.setattr("fedfs.nnunet.score.cross_evaluation.run_isolated", in_this_process)
    content, how, _ = KINDS[kind]
    write(paths, content, **how)
    life = live(paths, tmp_path, NAME, content)
    write_safetensors(tmp_path / "model.safetensors", life.trained.tensors)
    again = life.learner.score(life.plans, tmp_path / "model.safetensors", Reports())
    for name, score in life.finished.classes.items():
        assert again.classes[name].dice == pytest.approx(score.dice, abs=0.01), name
        assert again.classes[name].hd95_mm == pytest.approx(score.hd95_mm, rel=0.1), name


def test_the_file_format_is_each_sites_own_and_changes_nothing(study, tmp_path):
    """The same images in four formats: the same weights, bit for bit, and the same scores."""
    found = []
    for number, changes in enumerate(
        (
            {"file_ending": ".nii.gz"},
            {"file_ending": ".mha"},
            {"file_ending": ".nrrd"},
            {"file_ending": ".nii", "overwrite_image_reader_writer": "NibabelIO"},
        )
    ):
        folder = tmp_path / str(number)
        paths = make_paths(folder)
        write_dataset(paths.raw, 5, shape=(12, 32, 32), **changes)
        learner = NnUNetLearner(study.site(folder, paths=paths))
        learner.prepare(study.plans, study.fingerprint, Reports())
        seed_streams(3)
        trained = learner.train(
            task(0, weights_sha256="0", total_epochs=1, iterations=2), study.tensors, Reports()
        )
        last = task(1, weights_sha256="1", first_epoch=1, n_epochs=0, total_epochs=1, iterations=2)
        finished = learner.finish(last, trained.tensors, Reports())
        learner.close()
        adopted = json.loads((learner.model_folder() / "plans.json").read_text())
        reader = changes.get("overwrite_image_reader_writer", "SimpleITKIO")
        assert adopted["image_reader_writer"] == reader
        predicted = learner.model_folder() / "fold_0" / "validation"
        assert list(predicted.glob(f"*{changes['file_ending']}"))
        found.append((weights_sha256(trained.tensors), finished.classes))
    assert found == [found[0]] * 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "R", "1": "G"}, "hold 3 channels, dataset.json names 2"),
        ({"0": "R", "1": "G", "2": "B", "3": "A"}, "hold 3 channels, dataset.json names 4"),
    ],
)
def test_channels_of_a_natural_image_are_counted_when_it_is_read(paths, tmp_path, names, message):
    content, how, _ = KINDS["rgb"]
    write(paths, content, **how)
    (paths.raw / NAME / "dataset.json").write_text(json.dumps({**content, "channel_names": names}))
    with pytest.raises(TrainingError, match=message):
        NnUNetLearner(settings(paths, tmp_path, NAME)).fingerprint(Reports())


def test_more_images_than_channels_are_noticed_of_natural_images_too(paths):
    content, how, _ = KINDS["rgb"]
    write(paths, content, **how)
    for number in (1, 2, 3):
        (paths.raw / NAME / "imagesTr" / f"c0_{number:04d}.png").touch()
    with pytest.raises(DatasetError, match=r"other numbers of images.* c0 \(4\)"):
        RawDataset.open(paths, NAME)
