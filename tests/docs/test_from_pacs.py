"""The page on DICOM, followed on series that are tilted, with a localizer in the same folder."""

from __future__ import annotations

import json
import locale
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  as everybody calls it

from fedfs.simulation import phantoms
from support.code_blocks import ROOT
from support.slow import slow
from support.terminals import Terminals, follow

PATIENTS = {"organ_001": "patient-1", "organ_002": "patient-2"}
ANGLE = 0.3
TILT = (1, 0, 0, 0, np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE))


def write_series(image: sitk.Image, folder: Path, uid: str, description: str) -> None:
    """Write an image as DICOM slices, named so that their order in the folder is another one."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    orientation = [direction[i] for i in (0, 3, 6, 1, 4, 7)]
    for z in range(image.GetDepth()):
        cut = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{z + 1}",
            "0008|0020": "20260102",
            "0008|0030": "101010",
            "0008|0060": "CT",
            "0008|103e": description,
            "0010|0010": "Doe^Jane",
            "0010|0020": "12345",
            "0018|0050": str(image.GetSpacing()[2]),
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": uid,
            "0020|0011": uid[-1],
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "\\".join(map(str, orientation)),
            "0020|0052": "1.2.826.0.1.3680043.2.1125.2",
        }
        for tag, value in tags.items():
            cut.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid[-1]}-{(z * 7) % 31:03d}.dcm"))
        writer.Execute(cut)


@pytest.fixture(scope="module")
def same_locale():
    """SimpleITK's reader of DICOM sets the locale of the process to C, and leaves it."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="module")
def patients(tmp_path_factory, same_locale) -> Path:
    folder = tmp_path_factory.mktemp("pacs")
    (folder / "segmentations").mkdir()
    rng = np.random.default_rng(1)
    for i, patient in enumerate(PATIENTS.values()):
        voxels, labels = phantoms.make_case(phantoms.SCANNERS["north"], rng)
        image = sitk.GetImageFromArray(voxels.astype(np.int16)[:, 4:, :])
        drawn = sitk.GetImageFromArray(labels[:, 4:, :])
        for picture in (image, drawn):
            picture.SetSpacing((0.75, 0.875, 3.0))
            picture.SetOrigin((-20.0 + i, 35.0, 110.0))
            picture.SetDirection(TILT)
        sitk.WriteImage(drawn, folder / "segmentations" / f"{patient}.nrrd")
        dicom, uid = folder / "dicom" / patient, f"1.2.826.0.1.3680043.2.1125.{i + 3}"
        write_series(image, dicom, f"{uid}.1", "CT abdomen")
        write_series(image[:, :, 5:6], dicom, f"{uid}.2", "localizer")
    dataset = {**phantoms.DATASET_JSON, "numTraining": len(PATIENTS)}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@slow
def test_cases_made_as_the_page_says_are_where_the_patient_was(patients, tmp_path):
    def environment(_: str) -> dict[str, str]:
        folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **folders, "nnUNet_results": str(tmp_path / "results"), "PATH": path}

    with Terminals(patients, tmp_path, environment) as terminals:
        for wrong in follow(ROOT / "docs" / "from-pacs.md", terminals):
            pytest.fail(wrong)

    made = tmp_path / "raw" / "Dataset042_Organ"
    for case, patient in PATIENTS.items():
        files = sorted((patients / "dicom" / patient).glob("1-*.dcm"))
        original = {tuple(np.round(sitk.ReadImage(f).GetOrigin(), 3)): f for f in files}
        assert len(original) == phantoms.SHAPE_ZYX[0]
        image = sitk.ReadImage(made / "imagesTr" / f"{case}_0000.nii.gz")
        labels = sitk.ReadImage(made / "labelsTr" / f"{case}.nii.gz")
        drawn = sitk.ReadImage(patients / "segmentations" / f"{patient}.nrrd")
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(labels, what)() == pytest.approx(getattr(image, what)(), abs=1e-5)
        assert image.GetSpacing() == pytest.approx((0.75, 0.875, 3.0), abs=1e-5)
        if case == "organ_001":  # dcm2niix turns rows around: a copy of the labels would be wrong
            assert image.GetDirection() != pytest.approx(drawn.GetDirection(), abs=1e-5)
        again = sitk.Resample(labels, drawn, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(drawn))
        # Slice by slice, at the places that the DICOM files name:
        for file in files:
            cut = sitk.ReadImage(file)
            there = sitk.Resample(image, cut, sitk.Transform(), sitk.sitkNearestNeighbor)
            assert np.array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(cut))
