import json

import pytest
from synthetic import DATASET, dataset_json, write_dataset

from fedfs.errors import DatasetError, MalformedError
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import difference, ordered

REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


@pytest.fixture
def folder(paths):
    return write_dataset(paths.raw, 3, shape=(4, 8, 8))


def write(folder, **changes):
    (folder / "dataset.json").write_text(json.dumps(dataset_json(3, **changes)))


@pytest.mark.parametrize("name", [DATASET, "901", 901])
def test_opens_by_name_and_by_number(paths, folder, name):
    dataset = RawDataset.open(paths, name)
    assert [case.name for case in dataset.cases] == ["case_000", "case_001", "case_002"]
    assert dataset.facts() == {
        "n_cases": 3,
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "regions_class_order": None,
        "file_ending": ".nii.gz",
    }


def test_lists_the_files_that_nnunet_lists(paths, folder):
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets  # noqa: PLC0415  heavy

    ours = {
        case.name: {"images": [str(p) for p in case.images], "label": str(case.label)}
        for case in RawDataset.open(paths, DATASET).cases
    }
    assert ours == get_filenames_of_train_images_and_targets(str(folder))


def test_a_dataset_key_lists_files_anywhere(paths, folder, monkeypatch):
    monkeypatch.setenv("WHERE", "imagesTr")
    case = {"images": ["$WHERE/case_001_0000.nii.gz"], "label": "labelsTr/case_001.nii.gz"}
    write(folder, dataset={"only": case})
    (only,) = RawDataset.open(paths, DATASET).cases
    assert only.images == (folder / "imagesTr" / "case_001_0000.nii.gz",)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("imagesTr/case_001_0000.nii.gz", "no image for the label of case_001"),
        ("labelsTr/case_001.nii.gz", "lacks these labels: case_001.nii.gz"),
        ("dataset.json", "dataset.json cannot be read"),
    ],
)
def test_a_missing_file_is_named(paths, folder, removed, message):
    (folder / removed).unlink()
    with pytest.raises(DatasetError, match=message):
        RawDataset.open(paths, DATASET)


def test_a_missing_channel_is_named(paths, folder):
    write(folder, channel_names={"0": "T1", "1": "T2"})
    (folder / "imagesTr" / "case_000_0001.nii.gz").touch()
    with pytest.raises(DatasetError, match=r"2 channels.* case_001 \(1\), case_002 \(1\)"):
        RawDataset.open(paths, DATASET)


def test_only_the_first_few_of_many_are_named(paths):
    folder = write_dataset(paths.raw, 8, shape=(2, 4, 4))
    for path in (folder / "labelsTr").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="case_004.nii.gz and 3 more"):
        RawDataset.open(paths, DATASET)


def test_an_empty_dataset_is_refused(paths):
    write_dataset(paths.raw, 0)
    with pytest.raises(DatasetError, match="no training cases"):
        RawDataset.open(paths, DATASET)


def test_an_image_without_channel_number_is_refused(paths, folder):
    (folder / "imagesTr" / "case_000.nii.gz").touch()
    with pytest.raises(DatasetError, match="case_000.nii.gz has no channel number"):
        RawDataset.open(paths, DATASET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"labels": {"background": 0}, "file_ending": ".nii.gz"}', "channel_names"),
        ('{"channel_names": {"0": "T1"}, "file_ending": ".nii.gz"}', "labels must map names"),
        ('{"channel_names": {"0": "T1"}, "labels": {"0": "background"}}', "labels must map names"),
        ('{"channel_names": {"0": "T1"}, "labels": {"background": 0}}', "file_ending is missing"),
    ],
)
def test_an_unusable_dataset_json_is_refused(paths, folder, text, message):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        RawDataset.open(paths, DATASET)


@pytest.mark.parametrize("name", ["Dataset999_None", "17", "../x", "Dataset901_../x"])
def test_a_dataset_that_is_not_there_is_refused(paths, folder, name):
    with pytest.raises(DatasetError):
        RawDataset.open(paths, name)


def test_two_datasets_with_one_number_are_refused(paths, folder):
    (paths.raw / "Dataset901_Other").mkdir()
    with pytest.raises(DatasetError, match="2 datasets with the id 901"):
        RawDataset.open(paths, 901)


def test_values_of_labels_include_regions_and_ignore(paths, folder):
    write(folder, labels=REGIONS, regions_class_order=[1, 2])
    assert RawDataset.open(paths, DATASET).label_values == {0, 1, 2, 3}


def test_regions_without_order_are_refused(paths, folder):
    write(folder, labels=REGIONS)
    with pytest.raises(DatasetError, match="regions_class_order is missing"):
        RawDataset.open(paths, DATASET)


def test_names_numbers_and_formats_do_not_matter():
    local = {**dataset_json(77), "file_ending": ".mha", "name": "ours", "description": "x"}
    assert difference(dataset_json(), local) == []


def test_the_old_name_of_channels_is_understood():
    local = dataset_json()
    local["modality"] = local.pop("channel_names")
    assert difference(dataset_json(), local) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"channel_names": {"0": "CT"}}, "channel 0 is 'MRI' in the charter and 'CT' in the"),
        ({"channel_names": {"0": "MRI", "1": "T2"}}, "channel 1 is 'absent' in the charter"),
        ({"labels": {"background": 0, "shell": 1}}, "label 'core' (2) is missing in the dataset"),
        (
            {"labels": {"background": 0, "shell": 1, "core": 3}},
            "label 'core' is 2 in the charter and 3 in the dataset",
        ),
        (
            {"labels": {"background": 0, "shell": 1, "core": 2, "ignore": 3}},
            "label 'ignore' (3) is not in the charter",
        ),
    ],
)
def test_each_disagreement_is_spelled_out(changes, line):
    (found,) = difference(dataset_json(), dataset_json(**changes))
    assert line in found


def test_the_order_of_regions_matters():
    charter = dataset_json(labels=REGIONS, regions_class_order=[1, 2], label_order=list(REGIONS))
    same = dataset_json(labels=REGIONS, regions_class_order=[1, 2])
    assert difference(charter, same) == []
    swapped = {name: REGIONS[name] for name in ("background", "core", "whole", "ignore")}
    (line,) = difference(charter, dataset_json(labels=swapped, regions_class_order=[1, 2]))
    assert "in the order background, whole, core, ignore" in line
    (line,) = difference(charter, dataset_json(labels=REGIONS, regions_class_order=[2, 1]))
    assert line.startswith("regions_class_order is [1, 2] in the charter and [2, 1]")


def test_order_is_restored_after_the_store_sorted_the_keys():
    names = {str(i): f"channel {i}" for i in range(12)}
    given = dataset_json(
        labels=REGIONS, regions_class_order=[1, 2], channel_names=names, label_order=list(REGIONS)
    )
    sorted_by_store = json.loads(json.dumps(given, sort_keys=True))
    restored = ordered(sorted_by_store)
    assert list(restored["labels"]) == list(REGIONS)
    assert list(restored["channel_names"]) == list(names)
    assert "label_order" not in restored


@pytest.mark.parametrize("order", [None, [], ["background", "whole"]])
def test_regions_without_label_order_are_not_guessed(order):
    given = dataset_json(labels=REGIONS, regions_class_order=[1, 2], label_order=order)
    with pytest.raises(MalformedError, match="label_order"):
        ordered(given)
