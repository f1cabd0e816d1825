"""Synthetic nnU-Net datasets and a learner that trains on them in seconds."""

import json
import os

# Read by nnU-Net when it is imported, so before anything else.
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_compile", "f")

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fedfs.learner import RoundTask
from fedfs.nnunet.environment import NnUNetPaths

DATASET = "Dataset901_Ellipsoids"
LABELS = {"background": 0, "shell": 1, "core": 2}


@pytest.fixture(scope="session")
def hippocampus():
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("FEDFS_TEST_DATA", default)) / "hippocampus"
    if not (folder / "cases.csv").exists():
        pytest.skip(f"no hippocampus data in {folder}: set FEDFS_TEST_DATA")
    return folder


@pytest.fixture
def paths(tmp_path):
    return make_paths(tmp_path)


def make_paths(folder):
    made = NnUNetPaths(*(folder / name for name in ("raw", "preprocessed", "results")))
    for path in (made.raw, made.preprocessed, made.results):
        path.mkdir(parents=True)
    return made


def dataset_json(n_cases=0, **changes):
    return {
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": n_cases,
        "file_ending": ".nii.gz",
        **changes,
    }


def write_dataset(raw, n_cases, *, name=DATASET, seed=0, shape=(24, 40, 32), gain=100.0, labels=LABELS,
                  spacing=(1.0, 1.0, 1.0), **changes):
    """Write noise with two nested ellipsoids per case; ``shape`` as in nnU-Net, z first."""
    import SimpleITK as sitk

    rng = np.random.default_rng(seed)
    folder = raw / name
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for i in range(n_cases):
        image, label = ellipsoids(rng, shape, gain)
        for array, path in (
            (image, folder / "imagesTr" / f"case_{i:03d}_0000.nii.gz"),
            (label, folder / "labelsTr" / f"case_{i:03d}.nii.gz"),
        ):
            out = sitk.GetImageFromArray(array)
            out.SetSpacing([float(mm) for mm in spacing[::-1]])
            sitk.WriteImage(out, str(path))
    content = dataset_json(n_cases, labels=labels, **changes)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def ellipsoids(rng, shape, gain):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = np.array(shape) * rng.uniform(0.4, 0.6, 3)
    radii = np.array(shape) * rng.uniform(0.25, 0.35, 3)
    distance = np.sqrt((((grid - centre) / radii) ** 2).sum(-1))
    label = (distance < 1).astype(np.uint8) + (distance < 0.5).astype(np.uint8)
    noise = rng.normal(0, 0.3, shape)
    return (gain * (1 + label + noise)).astype(np.float32), label


def task(version=0, *, first_epoch=0, n_epochs=1, total_epochs=4, weights_sha256="", iterations=4):
    return RoundTask(
        version=version,
        weights_sha256=weights_sha256,
        first_epoch=first_epoch,
        n_epochs=n_epochs,
        total_epochs=total_epochs,
        iterations_per_epoch=iterations,
        val_iterations_per_epoch=2,
    )


class Reports(list):
    def __call__(self, progress):
        self.append(dataclasses.asdict(progress))
