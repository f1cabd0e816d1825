"""Requests to child processes come back from JSON as they went in."""

import dataclasses
import json
from pathlib import Path

from fedfs.learner import PartialTraining, RoundTask
from fedfs.nnunet.settings import LearnerSettings, Planning
from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths
from fedfs.nnunet.system.requests import from_json, to_json
from fedfs.nnunet.train.parallel import RoundRequest


def settings(**changes):
    return LearnerSettings(
        paths=NnUNetPaths(*map(Path, ("/raw", "/preprocessed", "/results"))),
        dataset="Dataset001_X",
        configuration="2d",
        trainer="nnUNetTrainer",
        fold="0",
        state_dir=Path("/state"),
        **changes,
    )


def test_a_request_survives_json():
    for changes in (
        {},
        {
            "host": HostSettings(device="cuda", num_gpus=2, allowed_trainers=("a", "b")),
            "broken_list": Path("/broken.json"),
            "next_stages": ("3d_cascade_fullres",),
            "planning": Planning(
                dataset_json={"labels": {"a": [1, 2]}}, dataset_name="x", seed=1,
                target_spacing=(1.0, 2.0), pretrained=Path("/w.safetensors"),
                planner_options={"UNet_base_num_features": 16},
            ),
        },
    ):  # fmt: skip
        request = RoundRequest(
            settings=settings(**changes),
            plans={"patch_size": [1, 2], "none": None},
            task=dataclasses.replace(
                RoundTask(1, "hash", 0, 1, 2, 3, 4, private=frozenset({"b", "a"})),
                partial=PartialTraining({"own": "name"}, 0.05),
            ),
            tensors=Path("/start"),
            output=Path("/end"),
        )
        fields = json.loads(json.dumps(to_json(request)))
        assert from_json(RoundRequest, fields) == request


def test_a_field_that_is_absent_has_its_default():
    assert from_json(HostSettings, {"device": "cpu"}) == HostSettings(device="cpu")
