"""Models for comparison: trained at the site on a part of its cases, as the study trains.

A reference is trained in one round of all epochs, from version 0, by the plan and trainer of the
study. It goes on from its last checkpoint, in a folder of its own.
"""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.learner import OnProgress, RoundTask, Tensors
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system.call import nnunet_call
from fedfs.nnunet.train.rounds import Rounds

log = logging.getLogger(__name__)

_EVERY_CASE = "all"
"""nnU-Net's fold that trains on whatever cases there are."""


def train_reference(
    settings: LearnerSettings,
    plans: Mapping[str, Any],
    dataset: RawDataset,
    *,
    cases: Collection[str],
    task: RoundTask,
    tensors: Tensors,
    folder: Path,
    on_progress: OnProgress,
) -> Tensors:
    """Train on these cases of a site, and no others; return the weights.

    Args:
        settings: of the site's learner.
        plans: the adopted plan.
        dataset: the site's, without the cases that it goes on without.
        cases: names of the cases to train on.
        task: one round of all epochs.
        tensors: weights to start from.
        folder: of this reference alone.
        on_progress: progress callback.

    Raises:
        TrainingError: nnU-Net failed.
    """
    own = replace(
        settings,
        fold=_EVERY_CASE,
        state_dir=folder / "training",
        paths=replace(settings.paths, results=folder / "results"),
    )
    left_out = [case.name for case in dataset.cases if case.name not in cases]
    own.paths.results.mkdir(parents=True, exist_ok=True)
    rounds = Rounds(own, plans, dataset.without(left_out), clock=time.monotonic)
    with nnunet_call(own.paths, log) as output:
        try:
            return rounds.train(task, tensors, output.outside(on_progress)).tensors
        finally:
            rounds.close()
