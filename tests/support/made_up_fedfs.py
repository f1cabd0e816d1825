"""The command fedfs with made-up learning, for a host that would need hours for nnU-Net's.

Everything around the learning is real: processes, their locks, logs and keys, messages and stores.

Rules:
 * ``FEDFS_TEST_ROUNDS`` names a folder. A training notes its base version in the file ``begun``
   there, and then waits for as long as the file ``hold`` has just this number in it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fedfs.cli import main
from fedfs.learner import TrainResult
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.protocol.messages import TrackCharter
from fedfs.roles.aggregator import run as aggregator
from fedfs.roles.site import run as site
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.training import track_folder
from fedfs.simulation.virtual.fake_learner import FakeLearner, FakePlanner

TARGET = 2.0
"""Where all weights of a site tend to."""
_LOOK_EVERY_S = 0.2


class Held(FakeLearner):
    """A learner whose rounds last as long as somebody wants."""

    def train(self, task: Any, tensors: Any, on_progress: Any) -> TrainResult:
        """See :class:`~fedfs.learner.Learner`."""
        folder = Path(os.environ["FEDFS_TEST_ROUNDS"])
        with (folder / "begun").open("a") as file:
            file.write(f"{task.version}\n")
        while (folder / "hold").read_text().strip() == str(task.version):
            time.sleep(_LOOK_EVERY_S)
        return super().train(task, tensors, on_progress)


def _site_parts(
    config: SiteConfig, store: object, charter: TrackCharter, paths: NnUNetPaths, **_: object
) -> tuple[Held, Path]:
    folder = track_folder(paths, charter, config.site)
    folder.mkdir(parents=True, exist_ok=True)
    return Held(TARGET), folder


def _planner(*_: object) -> FakePlanner:
    return FakePlanner()


if __name__ == "__main__":
    vars(site)["site_parts"] = _site_parts
    vars(aggregator)["NnUNetPlanner"] = _planner
    main()
