"""What nnU-Net itself makes of a raw dataset, in a process of its own."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json, sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from fedfs.nnunet.allowed.classes import planner_class

dataset, options = sys.argv[1], json.loads(sys.argv[2])
DatasetFingerprintExtractor(dataset, num_processes=2).run()
for name, kwargs, attributes in options:
    planner = planner_class(name)(dataset, **kwargs)
    for key, value in attributes.items():
        setattr(planner, key, value)
    planner.plan_experiment()
"""


def plan(paths, dataset, planners):
    """Return the fingerprint and one plan per (planner, arguments, attributes)."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, dataset, json.dumps(planners)],
        env={**os.environ, **paths.variables(), "nnUNet_n_proc_DA": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = paths.preprocessed / dataset
    return (
        json.loads((folder / "dataset_fingerprint.json").read_text()),
        [
            json.loads((folder / f"{kwargs['plans_name']}.json").read_text())
            for _, kwargs, _ in planners
        ],
    )
