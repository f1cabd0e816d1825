"""What ``nnUNetv2_train`` itself makes of preprocessed data, with known random numbers.

Runs as a process of its own: ``python plain.py`` with the request as JSON on standard input.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch


def seed_streams(seed, numpy_seed=None):
    """Seed every stream that nnU-Net draws from, none of which it seeds itself.

    Initial weights and some of the augmentation come from torch's stream; cases, patches and the
    rest of the augmentation from numpy's. One thread, so that no sum depends on how it is divided.
    """
    random.seed(seed)
    np.random.seed(seed if numpy_seed is None else numpy_seed)  # noqa: NPY002  nnU-Net's stream
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def seed_workers(put=setattr):
    """Have augmentation workers seeded: nnU-Net starts each with a seed of the system's.

    Args:
        put: called as ``setattr``, with what stands in for the class that nnU-Net's trainer uses.
    """
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415  takes seconds

    class Seeded(nnUNetTrainer.NonDetMultiThreadedAugmenter):
        def __init__(self, *args, num_processes, **options):
            seeds = list(range(num_processes))
            super().__init__(*args, **{**options, "num_processes": num_processes, "seeds": seeds})

    put(nnUNetTrainer, "NonDetMultiThreadedAugmenter", Seeded)


def train(paths, runs, *, workers):
    """Train each run as nnU-Net does; its last checkpoint is then at ``run["output"]``."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(runs),
        env={**os.environ, **paths.variables(), "nnUNet_n_proc_DA": str(workers)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def main():
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415  takes seconds

    seed_workers()
    for run in json.load(sys.stdin):
        seed_streams(run["seed"], run.get("numpy_seed"))
        # What nnUNetv2_train does without --c and -pretrained_weights, validation apart.
        trainer = get_trainer_from_args(
            run["dataset"],
            run["configuration"],
            0,
            "nnUNetTrainer",
            run["plans"],
            device=torch.device("cpu"),
        )
        trainer.num_epochs = run["epochs"]
        trainer.num_iterations_per_epoch = run["iterations"]
        trainer.num_val_iterations_per_epoch = run["val_iterations"]
        trainer.run_training()
        shutil.copy(Path(trainer.output_folder, "checkpoint_final.pth"), run["output"])


if __name__ == "__main__":
    main()
