"""The paper's comparison: sites alone, federated in several ways, and all data pooled.

Each arm (:mod:`fedfs.simulation.arms`) is a study of real processes that share nothing but a
folder. A part of each site's cases, and all of an external site's, is kept away from every arm and
predicted by every model.

Stopped at any moment, it goes on where it was: what is finished is on disk.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.protocol import codec
from fedfs.protocol.ranges import check_learning_rate
from fedfs.simulation.arms import ARMS, DEFAULT_ARMS, Run, check_arms
from fedfs.simulation.cases import (
    Split,
    read_cases,
    read_patients,
    site_name,
    split_cases,
    with_site_names,
)
from fedfs.simulation.cluster import SLURM, Cluster
from fedfs.simulation.kept_options import keep_options
from fedfs.simulation.machine import Machine
from fedfs.simulation.prediction import Predictor
from fedfs.simulation.slurm_parameters import parse_parameters
from fedfs.simulation.studies import Schedule, Studies
from fedfs.simulation.table import ExperimentResult, tabulate
from fedfs.simulation.table_text import write_tables

_DECIDE = (
    "external", "rounds", "local_iterations", "val_iterations", "learning_rate", "test_share",
    "init", "site_run", "mirroring",
)  # fmt: skip
_RUNS = "*-fold*-seed*"
"""Names of the folders of runs, see :class:`~fedfs.simulation.arms.Run`."""
_UPDATES = "*/store/tracks/*/sites/*/updates/*/manifest.json"
"""Updates in the stores of a run's studies."""


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of an experiment.

    Attributes:
        folder: everything goes in here; an experiment that is there goes on.
        data: nnU-Net raw dataset with ``cases.csv``; of its columns, ``patient`` may be there.
        arms: some of :data:`~fedfs.simulation.arms.ARMS`.
        reference: arm that the others are compared with; None for ``local`` if it is one of them,
            else the first.
        external: a site of which no case is trained on; None for none.
        configurations: nnU-Net's; each is an experiment of its own, with rows of its own.
        folds: nnU-Net's folds; likewise, but the table has their mean.
        seeds: of the initial weights; likewise.
        test_share: share of every other site's cases that no arm may train on.
        learning_rate: that the trainings of all arms begin with; None for the trainer's own.
        init: further options of ``fedfs init``.
        site_run: further options of ``fedfs site run``.
        final_validation: whether sites validate the last version as nnU-Net does.
        mirroring: whether test cases are predicted with nnU-Net's test-time augmentation.
        gpus: as CUDA counts them, given to sites in turn; empty for whatever there is.
        at_once: sites that run at the same time; 0 for all.
        cluster: ``slurm`` or ``local``: every turn of a site is a job; None for processes.
        slurm: parameters of its jobs, as ``NAME=VALUE``.
    """

    folder: Path
    data: Path
    arms: Sequence[str] = DEFAULT_ARMS
    reference: str | None = None
    external: str | None = None
    folds: Sequence[str] = ("0",)
    seeds: Sequence[int] = (1,)
    configurations: Sequence[str] = ("2d",)
    rounds: int = 20
    local_iterations: int = 50
    val_iterations: int = 5
    learning_rate: float | None = None
    test_share: float = 0.25
    init: Sequence[str] = ()
    site_run: Sequence[str] = ()
    final_validation: bool = True
    mirroring: bool = False
    device: str | None = None
    gpus: Sequence[str] = ()
    at_once: int = 0
    cluster: str | None = None
    slurm: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_arms(self.arms)
        check_learning_rate(self.learning_rate)
        if self.reference is not None and self.reference not in self.arms:
            raise UserError(
                f"The reference {self.reference!r} is none of the arms.",
                hint=f"one of {', '.join(self.arms)}",
            )
        if any(name.endswith("cascade_fullres") for name in self.configurations):
            raise UserError(
                "A cascade needs two stages, and an experiment trains one model at a time.",
                hint="leave it out; a study of a cascade is fedfs init -c 3d_lowres,3d_cascade...",
            )
        if self.slurm and self.cluster != SLURM:
            raise UserError("--slurm is for --cluster slurm.")
        if self.gpus and self.cluster == SLURM:
            raise UserError("SLURM gives its jobs their GPUs.", hint="--slurm gpus_per_node=1")

    @property
    def compared_with(self) -> str:
        """The reference arm."""
        return self.reference or ("local" if "local" in self.arms else self.arms[0])


@dataclass
class Experiment:
    """Runs an experiment.

    Args:
        options: what to do.
        log: called with a line about each step.
    """

    options: ExperimentOptions
    log: Callable[[str], None]
    _splits: tuple[Split, ...] = field(init=False, default=())
    _patients: dict[str, str] = field(init=False, default_factory=dict)
    _machine: Machine = field(init=False, default_factory=Machine)

    def run(self) -> ExperimentResult:
        """Do what is left to do; return the numbers, and write them as tables.

        Raises:
            UserError: the data cannot be used, or another process runs this experiment.
            SetupError: there is no such cluster.
            FedfsError: a process failed; with the end of its log.
        """
        options = self.options
        self._patients = read_patients(options.data)
        self._splits = self._split()
        cluster = None
        if options.cluster is not None:
            parameters = parse_parameters(options.slurm)
            cluster = Cluster(options.cluster, parameters, at_once=options.at_once)
        self._machine = Machine(options.gpus, options.at_once, cluster)
        decisive = {name: codec.to_json(getattr(options, name)) for name in _DECIDE}
        decisive["cases"] = {one.site: [len(one.training), len(one.test)] for one in self._splits}
        with (
            keep_options(options.folder, "experiment", decisive, self._begin_anew),
            self._machine.cancelled_with_us(),
        ):
            result = tabulate(
                self._repeats(),
                self._splits,
                reference=options.compared_with,
                patients=self._patients,
            )
            write_tables(options.folder, result)
            return result

    def _begin_anew(self) -> bool:
        """Empty the folder if nothing was trained there; return whether that is so."""
        if self._has_trained():
            return False
        self.log("the folder is begun anew: nothing was trained with its earlier options")
        for old in (*self.options.folder.glob(_RUNS), self.options.folder / "test"):
            shutil.rmtree(old, ignore_errors=True)
        return True

    def _has_trained(self) -> bool:
        """Return whether a site of any of the studies has published an update, or a run is done."""
        runs = list(self.options.folder.glob(_RUNS))
        done = (one for run in runs for one in run.glob("scores.json"))
        updates = (one for run in runs for one in run.glob(_UPDATES))
        return any(True for _ in (*done, *updates))

    def _repeats(self) -> dict[str, list[dict[str, Any]]]:
        """Return row of the table -> site -> case -> scores, for each fold and seed."""
        options = self.options
        scores: dict[str, list[dict[str, Any]]] = {}
        for configuration, fold, seed in itertools.product(
            options.configurations, options.folds, options.seeds
        ):
            runs = [Run(arm, configuration, fold, seed, options.folder) for arm in options.arms]
            self._do([run for run in runs if not run.scores.exists()])
            for run in runs:
                several = len(options.configurations) > 1
                row = f"{run.arm}, {configuration}" if several else run.arm
                found = json.loads(run.scores.read_text(encoding="utf-8"))
                scores.setdefault(row, []).append(found)
        return scores

    def _do(self, runs: Sequence[Run]) -> None:
        """Train what runs need, of one configuration, fold and seed; then predict with all."""
        options, models = self.options, {}
        schedule = Schedule(
            arms=options.arms,
            rounds=options.rounds,
            local_iterations=options.local_iterations,
            val_iterations=options.val_iterations,
            learning_rate=options.learning_rate,
            init=options.init,
            run=(
                *(() if options.final_validation else ("--no-final-validation",)),
                *(("--device", options.device) if options.device else ()),
                *options.site_run,
            ),
        )
        training = {split.site: split.training for split in self._splits if split.training}
        studies = Studies(options.data, training, schedule, self._machine, self.log)
        for run in runs:
            shared = ARMS[run.arm].study
            self.log(f"{run.name}: training" + (f" ({shared})" if shared != run.arm else ""))
            models[run] = studies.train(run)
        if not models:
            return
        self.log(f"{', '.join(run.arm for run in runs)}, seed {runs[0].seed}: predicting")
        predictor = Predictor(
            options.data,
            self._splits,
            options.folder / "test",
            self._machine,
            self.log,
            mirroring=options.mirroring,
            device=options.device,
        )
        predictor.score(models, runs[0].folder / "scores")

    def _split(self) -> tuple[Split, ...]:
        options = self.options
        cases = with_site_names(read_cases(options.data), self.log)
        splits = []
        if options.external is not None:
            external = site_name(options.external, lambda _: None)
            if external not in cases:
                raise UserError(
                    f"There is no site {external!r} in {options.data / 'cases.csv'}.",
                    hint=f"sites: {', '.join(cases)}",
                )
            splits.append(Split(external, (), cases.pop(external)))
        shares = split_cases(cases, test_share=options.test_share, patients=self._patients)
        return (*shares, *splits)
