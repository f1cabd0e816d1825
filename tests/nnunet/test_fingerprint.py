import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import SimpleITK
from synthetic import DATASET, Reports, write_dataset

from fedfs.aggregation.fingerprint_checks import validate_fingerprint
from fedfs.aggregation.fingerprints import merge_fingerprints, to_nnunet
from fedfs.errors import DatasetError, TrainingError
from fedfs.nnunet.data import fingerprint
from fedfs.nnunet.data.dataset import RawDataset


def extract(paths, *, num_processes=1, on_progress=None, rng=None, dataset=DATASET):
    return fingerprint.extract(
        RawDataset.open(paths, dataset),
        num_processes=num_processes,
        on_progress=Reports() if on_progress is None else on_progress,
        rng=rng,
    )


def rewrite(path, change):
    image = SimpleITK.ReadImage(str(path))
    changed = SimpleITK.GetImageFromArray(change(SimpleITK.GetArrayFromImage(image)))
    changed.SetSpacing(image.GetSpacing())
    SimpleITK.WriteImage(changed, str(path))


def with_nan(array):
    array[0, 0, 0] = np.nan
    return array


def with_label_seven(array):
    array[0, 0, 0] = 7
    return array


@pytest.fixture
def folder(paths):
    return write_dataset(paths.raw, 4, shape=(6, 14, 10), spacing=(3.0, 1.0, 0.5))


def test_it_has_one_geometry_per_case_and_can_be_published(paths, folder):
    report = Reports()
    found = extract(paths, on_progress=report)
    validate_fingerprint(found)
    assert found.n_cases == len(found.geometry) == found.channels[0].n_cases == 4
    assert all(case.spacing_mm == (3.0, 1.0, 0.5) for case in found.geometry)
    assert [(p["done"], p["total"]) for p in report] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_several_processes_find_the_same(paths, folder):
    one, two = (extract(paths, num_processes=n, rng=random.Random(1)) for n in (1, 2))
    assert one == two


def test_the_order_of_geometries_says_nothing_about_the_cases(paths):
    folder = write_dataset(paths.raw, 6, shape=(4, 8, 8))
    for i, path in enumerate(sorted((folder / "imagesTr").iterdir())):
        image = SimpleITK.ReadImage(str(path))
        image.SetSpacing((1.0, 1.0, 1.0 + i))
        SimpleITK.WriteImage(image, str(path))
    orders = {
        tuple(case.spacing_mm[0] for case in extract(paths, rng=random.Random(seed)).geometry)
        for seed in range(5)
    }
    assert len(orders) == 5
    assert {tuple(sorted(order)) for order in orders} == {(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}


def test_cropping_to_nonzero_is_measured(paths, folder):
    def emptied(array):
        array[:, :, 5:] = 0
        return array

    for path in (folder / "imagesTr").iterdir():
        rewrite(path, emptied)
    for case in extract(paths).geometry:
        assert case.shape_after_crop == (6, 14, 5)
        assert case.relative_size_after_cropping == 0.5


def test_a_case_without_foreground_counts_as_a_case_only(paths, folder):
    rewrite(folder / "labelsTr" / "case_000.nii.gz", np.zeros_like)
    found = extract(paths)
    assert (found.n_cases, found.channels[0].n_cases) == (4, 3)


@pytest.mark.parametrize(
    ("change", "message", "num_processes"),
    [
        (with_label_seven, "Case case_002: .*holds 7, which", 1),
        (with_label_seven, "Case case_002: .*holds 7, which", 2),
        (lambda a: a[1:], r"Case case_002: .*\(5, 14, 10\)", 1),
    ],
)
def test_a_broken_case_is_named(paths, folder, change, message, num_processes):
    rewrite(folder / "labelsTr" / "case_002.nii.gz", change)
    with pytest.raises(TrainingError, match=message) as caught:
        extract(paths, num_processes=num_processes)
    assert caught.value.kind == "broken-case"


def test_nan_is_refused(paths):
    # Not as .nii.gz: ITK's reader of NIfTI turns NaN into 0.
    folder = write_dataset(paths.raw, 2, shape=(4, 8, 8), file_ending=".mha")
    rewrite(folder / "imagesTr" / "case_001_0000.mha", with_nan)
    with pytest.raises(TrainingError, match="Case case_001: .*NaN") as caught:
        extract(paths)
    assert caught.value.kind == "broken-case"


def test_a_truncated_image_is_named(paths, folder):
    path = folder / "imagesTr" / "case_003_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="case_003") as caught:
        extract(paths)
    assert caught.value.kind == "broken-case"


def test_a_format_that_nnunet_does_not_read_is_refused(paths, folder):
    (folder / "imagesTr" / "case_000_0000.nii.gz").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="no reader of nnU-Net"):
        extract(paths)


@pytest.mark.nnunet
def test_it_says_what_nnunet_says(paths, folder):
    ours = to_nnunet(merge_fingerprints({"only": extract(paths)}))
    theirs, _ = reference.plan(paths, DATASET, [])
    assert sorted(ours["shapes_after_crop"]) == sorted(theirs["shapes_after_crop"])
    assert sorted(ours["spacings"]) == sorted(theirs["spacings"])
    assert ours["median_relative_size_after_cropping"] == pytest.approx(
        theirs["median_relative_size_after_cropping"]
    )
    (mine,) = ours["foreground_intensity_properties_per_channel"].values()
    (its,) = theirs["foreground_intensity_properties_per_channel"].values()
    assert mine.keys() == its.keys()  # with the extremes: nothing of it has left the site
    for key, value in its.items():
        assert mine[key] == pytest.approx(value, rel=2e-3), key


@pytest.mark.nnunet
def test_workers_end_when_the_process_is_killed(paths):
    write_dataset(paths.raw, 12, shape=(40, 60, 60))
    code = f"""
import os, sys
from pathlib import Path
from fedfs.nnunet.data import fingerprint
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.system.environment import NnUNetPaths
paths = NnUNetPaths(*map(Path, {[str(p) for p in (paths.raw, paths.raw, paths.raw)]}))
def report(progress):
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), 9)
fingerprint.extract(RawDataset.open(paths, {DATASET!r}), num_processes=2, on_progress=report)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    # The pipes close only when the last worker has gone, so coming here proves it.
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids, done.stderr
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
