"""Small nnU-Net datasets, and rounds that take seconds."""

import dataclasses
import json

import numpy as np
import SimpleITK

from fedfs.aggregation.fingerprints import to_nnunet
from fedfs.learner import RoundTask
from fedfs.nnunet.data import fingerprint
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.nnunet_learner import LearnerSettings
from fedfs.nnunet.plan.plans import PlanRequest, WeightsRequest, initial_weights, plan
from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths
from fedfs.tensors.canonical import TensorFile

DATASET = "Dataset901_Ellipsoids"
LABELS = {"background": 0, "shell": 1, "core": 2}


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


def write_dataset(
    raw,
    n_cases,
    *,
    name=DATASET,
    seed=0,
    shape=(24, 40, 32),
    gain=100.0,
    labels=LABELS,
    spacing=(1.0, 1.0, 1.0),
    **changes,
):
    """Write noise with two nested ellipsoids per case; ``shape`` as in nnU-Net, z first."""
    rng = np.random.default_rng(seed)
    ending = changes.get("file_ending", ".nii.gz")
    folder = raw / name
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for i in range(n_cases):
        image, label = ellipsoids(rng, shape, gain)
        for array, path in (
            (image, folder / "imagesTr" / f"case_{i:03d}_0000{ending}"),
            (label, folder / "labelsTr" / f"case_{i:03d}{ending}"),
        ):
            out = SimpleITK.GetImageFromArray(array)
            out.SetSpacing([float(mm) for mm in spacing[::-1]])
            SimpleITK.WriteImage(out, str(path))
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


class Study:
    """What a site finds on the store when training begins."""

    def __init__(self, folder, *, configuration="2d", n_cases=6, **changes):
        self.configuration = configuration
        self.paths = make_paths(folder)
        write_dataset(self.paths.raw, n_cases, shape=(12, 32, 32), **changes)
        dataset = RawDataset.open(self.paths, DATASET)
        site = fingerprint.extract(dataset, num_processes=1, on_progress=Reports())
        self.fingerprint = to_nnunet(site)
        made = plan(
            PlanRequest(
                dataset_name="Dataset800_Study",
                dataset_json={
                    **dataset.dataset_json,
                    "label_order": list(dataset.dataset_json["labels"]),
                },
                fingerprint=self.fingerprint,
                n_cases=n_cases,
                configuration=configuration,
                plans_name="fedfsPlans",
                gpu_memory_target_gb=0.1,
                planner_options={
                    "UNet_base_num_features": 8,
                    "UNet_max_features_2d": 16,
                    "UNet_max_features_3d": 16,
                },
            )
        )
        self.plans, self.dataset_json = made.plans, made.dataset_json
        self.weights_file = folder / "weights.safetensors"
        initial_weights(
            WeightsRequest(
                plans=self.plans,
                dataset_json=self.dataset_json,
                configuration=configuration,
                trainer="nnUNetTrainer",
                seed=1,
                output=str(self.weights_file),
            )
        )
        with TensorFile(self.weights_file) as tensors:
            self.tensors = dict(tensors)

    def site(self, folder, **changes):
        """Return settings of a site that has the study's images and nothing else yet."""
        for name in ("preprocessed", "results"):
            (folder / name).mkdir(exist_ok=True)
        values = {
            "paths": NnUNetPaths(self.paths.raw, folder / "preprocessed", folder / "results"),
            "dataset": DATASET,
            "configuration": self.configuration,
            "trainer": "nnUNetTrainer",
            "fold": "0",
            "state_dir": folder / "state",
        }
        of_host = {one.name for one in dataclasses.fields(HostSettings)} & set(changes)
        host = {name: changes.pop(name) for name in of_host}
        values["host"] = HostSettings(**{"device": "cpu", "num_processes": 1, **host})
        return LearnerSettings(**{**values, **changes})
