"""What nnU-Net itself makes of a raw dataset."""

import json

import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)

from fedfs.nnunet.allowed.classes import planner_class
from fedfs.nnunet.system.environment import set_variables
from support.one_process import fork_pools


def plan(paths, dataset, planners):
    """Return the fingerprint and one plan per (planner, arguments, attributes)."""
    with set_variables(paths.variables()), pytest.MonkeyPatch.context() as patch:
        fork_pools(patch)
        DatasetFingerprintExtractor(dataset, num_processes=1).run()
        for name, kwargs, attributes in planners:
            planner = planner_class(name)(dataset, **kwargs)
            for key, value in attributes.items():
                setattr(planner, key, value)
            planner.plan_experiment()
    folder = paths.preprocessed / dataset
    return (
        json.loads((folder / "dataset_fingerprint.json").read_text()),
        [
            json.loads((folder / f"{kwargs['plans_name']}.json").read_text())
            for _, kwargs, _ in planners
        ],
    )
