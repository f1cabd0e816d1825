"""Predictions of the test cases by the models of an experiment's arms, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.nnunet.system import files
from fedfs.simulation.arms import ARMS, Run
from fedfs.simulation.cases import Split, place_dataset
from fedfs.simulation.heartbeat import heartbeat
from fedfs.simulation.hosts import Host
from fedfs.simulation.jobs import PredictedSet, Prediction
from fedfs.simulation.machine import Machine
from fedfs.simulation.table import mean_scores, read_scores

Models = Mapping[str, Path]
"""Site, or ``""`` for all -> model folder."""


@dataclass(frozen=True)
class Predictor:
    """Predicts each site's test cases by the model that an arm has for the site.

    The external site is predicted by every model of an arm, and the mean of these is taken.

    Args:
        data: nnU-Net raw dataset of all cases.
        splits: of all sites.
        test: folder for the test cases of each site.
        machine: to run on.
        log: called with a line about each step.
        mirroring: nnU-Net's test-time augmentation.
        device: as in :class:`~fedfs.nnunet.system.environment.HostSettings`.
    """

    data: Path
    splits: Sequence[Split]
    test: Path
    machine: Machine
    log: Callable[[str], None]
    mirroring: bool = False
    device: str | None = None

    def score(self, models: Mapping[Run, Models], host_folder: Path) -> None:
        """Predict with all models of runs of one fold, and write the scores of each run.

        On one machine one process does it, as importing nnU-Net takes seconds; on a cluster each
        model has a job.

        Raises:
            FedfsError: a process failed.
        """
        sets = {run: self._sets(run, of_run) for run, of_run in models.items()}
        all_sets = [one for of_run in sets.values() for s in of_run.values() for one in s]
        left = [one for one in all_sets if not one.is_done]

        def look() -> tuple[object, str]:
            n_done = sum(one.is_done for one in all_sets)
            return n_done, f"predicted {n_done} of {len(all_sets)} sets of test cases"

        with heartbeat(look, self.log):
            self.machine.run(self._tasks(left, next(iter(models)).fold, host_folder), 1)
        for run, of_run in sets.items():
            scores = {
                site: mean_scores([read_scores(one.output) for one in of_site])
                for site, of_site in of_run.items()
            }
            files.write_json(run.scores, scores)

    def _sets(self, run: Run, models: Models) -> dict[str, list[PredictedSet]]:
        made = {}
        for split in self.splits:
            site, images = split.site, self.test / split.site
            place_dataset(self.data, images, split.test)
            own = [models[site]] if site in models else list(models.values())
            groups = [tuple(models.values())] if ARMS[run.arm].is_ensemble else [(m,) for m in own]
            made[site] = [
                PredictedSet(
                    model, images, run.folder / "predicted" / site / str(number), tuple(others)
                )
                for number, (model, *others) in enumerate(groups)
            ]
        return made

    def _tasks(self, sets: Sequence[PredictedSet], fold: str, folder: Path) -> list[Prediction]:
        groups: dict[Path | None, list[PredictedSet]] = {}
        for one in sets:
            groups.setdefault(None if self.machine.is_one else one.model, []).append(one)
        tasks = []
        for number, group in enumerate(groups.values()):
            host = Host("scores", folder / str(number), self.machine.slot())
            host.folder.mkdir(parents=True, exist_ok=True)
            tasks.append(
                Prediction(
                    host, tuple(group), fold, device=self.device, use_mirroring=self.mirroring
                )
            )
        return tasks
