"""The paper's comparison on one machine: sites alone, federated in both modes, and all data pooled.

Each arm is a study of its own, of real processes that share nothing but a folder: ``local`` one of
a single site for each site, ``central`` one of a single site that has all training cases, ``ffe``
and ``asym`` one of all sites. All have the same number of rounds and iterations and nnU-Net's
schedule over all of them. A part of each site's cases, and all of an external site's, is kept away
from every arm and predicted by every model.

Stopped at any moment, it goes on where it was: what is finished is on disk.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.exchange.read import open_study
from fedfs.protocol import codec, participation
from fedfs.roles.lock import hold_lock
from fedfs.simulation.cases import (
    Split,
    place_dataset,
    read_cases,
    site_name,
    split_cases,
    with_site_names,
)
from fedfs.simulation.cluster import SLURM, Cluster, parse_parameters
from fedfs.simulation.gpu_slots import Slot, slot_of
from fedfs.simulation.heartbeat import heartbeat, look_at
from fedfs.simulation.hosts import Host, LocalStudy, ended_with_us
from fedfs.simulation.jobs import PredictedSet, Prediction, Task, run_here, take_turns
from fedfs.simulation.table import ExperimentResult, mean_scores, read_scores, tabulate
from fedfs.store import open_store
from fedfs.store.local_files import replacing

LOCAL, FFE, ASYM, CENTRAL = ARMS = ("local", "ffe", "asym", "central")
_DECIDE = ("external", "rounds", "local_iterations", "val_iterations", "test_share", "init")
_DATASET = "Dataset900_Simulation"
_POOLED = "central"
_RUNS = "*-fold*-seed*"
"""Names of the folders of runs, see :attr:`_Run.folder`."""
_UPDATES = "*/store/tracks/*/sites/*/updates/*/manifest.json"
"""Updates in the stores of a run's studies."""


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of an experiment.

    Attributes:
        folder: everything goes in here; an experiment that is there goes on.
        data: nnU-Net raw dataset with ``cases.csv``.
        arms: some of :data:`ARMS`.
        external: a site of which no case is trained on; None for none.
        configurations: nnU-Net's; each is an experiment of its own, with rows of its own.
        folds: nnU-Net's folds; likewise, but the table has their mean.
        seeds: of the initial weights; likewise.
        test_share: share of every other site's cases that no arm may train on.
        init: further options of ``fedfs init``.
        gpus: as CUDA counts them, given to sites in turn; empty for whatever there is.
        at_once: sites that run at the same time; 0 for all.
        cluster: ``slurm`` or ``local``: every turn of a site is a job; None for processes.
        slurm: parameters of its jobs, as ``NAME=VALUE``.
    """

    folder: Path
    data: Path
    arms: Sequence[str] = ARMS
    external: str | None = None
    folds: Sequence[str] = ("0",)
    seeds: Sequence[int] = (1,)
    configurations: Sequence[str] = ("2d",)
    rounds: int = 20
    local_iterations: int = 50
    val_iterations: int = 5
    test_share: float = 0.25
    init: Sequence[str] = ()
    device: str | None = None
    gpus: Sequence[str] = ()
    at_once: int = 0
    cluster: str | None = None
    slurm: Sequence[str] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown or not self.arms:
            raise UserError(
                f"Arm {unknown[0] if unknown else ''!r} is unknown.",
                hint=f"some of {', '.join(ARMS)}",
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


@dataclass(frozen=True)
class _Run:
    """One arm, configuration, fold and seed; ``root`` is the experiment's folder."""

    arm: str
    configuration: str
    fold: str
    seed: int
    root: Path

    @property
    def name(self) -> str:
        return f"{self.arm}, {self.configuration}, fold {self.fold}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.root / f"{self.arm}-{self.configuration}-fold{self.fold}-seed{self.seed}"


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
    _cluster: Cluster | None = field(init=False, default=None)

    def run(self) -> ExperimentResult:
        """Do what is left to do; return the numbers.

        Raises:
            UserError: the data cannot be used, or another process runs this experiment.
            SetupError: there is no such cluster.
            FedfsError: a process failed; with the end of its log.
        """
        options = self.options
        self._splits = self._split()
        if options.cluster is not None:
            parameters = parse_parameters(options.slurm)
            self._cluster = Cluster(options.cluster, parameters, at_once=options.at_once)
        with hold_lock(options.folder / "lock") as holder, self._cancelled_with_us():
            if holder:
                raise UserError(
                    f"{holder} runs the experiment in {options.folder} already.",
                    hint="wait for it, or choose another folder",
                )
            self._settle()
            return tabulate(self._repeats(), self._splits)

    def _settle(self) -> None:
        """Note what decides the numbers; of what is in the folder already, it has to be the same.

        Raises:
            UserError: it is not.
        """
        path = self.options.folder / "options.json"
        now = {name: codec.to_json(getattr(self.options, name)) for name in _DECIDE}
        now["cases"] = {one.site: [len(one.training), len(one.test)] for one in self._splits}
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
        if before != now and not self._has_trained():
            self.log("the folder is begun anew: nothing was trained with its earlier options")
            for old in (*self.options.folder.glob(_RUNS), self.options.folder / "test"):
                shutil.rmtree(old, ignore_errors=True)
            before = now
        for name, value in now.items():
            if before[name] != value:
                raise UserError(
                    f"The experiment in {self.options.folder} has {name} {before[name]}, "
                    f"not {value}.",
                    hint="give the same as before, or another folder",
                )
        _write(path, now)

    def _has_trained(self) -> bool:
        """Return whether a site of any of the studies has published an update, or a run is done."""
        runs = list(self.options.folder.glob(_RUNS))
        done = (one for run in runs for one in run.glob("scores.json"))
        updates = (one for run in runs for one in run.glob(_UPDATES))
        return any(True for _ in (*done, *updates))

    def _repeats(self) -> dict[str, list[dict[str, Any]]]:
        """Return row of the table -> what :meth:`_score` returns, for each fold and seed."""
        options = self.options
        scores: dict[str, list[dict[str, Any]]] = {}
        for configuration, fold, seed, arm in itertools.product(
            options.configurations, options.folds, options.seeds, options.arms
        ):
            run = _Run(arm, configuration, fold, seed, options.folder)
            row = f"{arm}, {configuration}" if len(options.configurations) > 1 else arm
            done = run.folder / "scores.json"
            if not done.exists():
                self.log(f"{run.name}: training")
                models = self._train(run)
                self.log(f"{run.name}: predicting")
                _write(done, self._score(run, models))
            scores.setdefault(row, []).append(json.loads(done.read_text(encoding="utf-8")))
        return scores

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
        return (*split_cases(cases, test_share=options.test_share), *splits)

    @property
    def _training(self) -> dict[str, tuple[str, ...]]:
        return {split.site: split.training for split in self._splits if split.training}

    def _train(self, run: _Run) -> dict[str, Path]:
        """Run an arm's studies; return site (or ``""`` for all) -> model folder."""
        training = self._training
        if run.arm == LOCAL:

            def alone(site: str) -> Path:
                return self._study(run, run.folder / site, {site: training[site]})[""]

            n_at_once = self.options.at_once or len(training)
            with ThreadPoolExecutor(n_at_once) as pool, self._cancelled_with_us(), ended_with_us():
                return dict(zip(training, pool.map(alone, training), strict=True))
        if run.arm == CENTRAL:
            pooled = tuple(case for cases in training.values() for case in cases)
            return self._study(run, run.folder / "study", {_POOLED: pooled})
        return self._study(run, run.folder / "study", training)

    def _study(
        self, run: _Run, folder: Path, sites: Mapping[str, Sequence[str]]
    ) -> dict[str, Path]:
        options = self.options
        n_sites = 1 if run.arm == CENTRAL else len(self._training)  # beside which others train
        n_at_once = min(options.at_once or n_sites, n_sites)
        hosts, numbers = {}, {site: number for number, site in enumerate(self._training)}
        for site, cases in sites.items():
            slot = self._slot(numbers.get(site, 0), n_at_once=n_at_once, gpus=options.gpus)
            hosts[site] = Host(site, folder / "hosts" / site, slot).make()
            place_dataset(options.data, hosts[site].raw / _DATASET, cases)
        mode = ASYM if run.arm == ASYM else FFE
        study = LocalStudy(
            store=folder / "store",
            dataset=_DATASET,
            dataset_json=options.data / "dataset.json",
            coordinator=Host("coordinator", folder / "coordinator").make(),
            sites=hosts,
            init=(
                "--name", "simulation", "--mode", mode, "-c", run.configuration,
                "--fold", run.fold, "--rounds", str(options.rounds),
                "--local-iterations", str(options.local_iterations),
                "--val-iterations", str(options.val_iterations), "--seed", str(run.seed),
                *options.init,
            ),
            run=("--device", options.device) if options.device else (),
        )  # fmt: skip
        name = f"{run.name}, {folder.name}" if run.arm == LOCAL else run.name
        with heartbeat(look_at(study.store, name), self.log):
            self._complete(study, n_at_once)
        return self._export(study, run.arm, folder)

    def _complete(self, study: LocalStudy, n_at_once: int) -> None:
        """Begin a study, or go on with it, to its end."""
        study.begin()

        def is_over() -> bool:
            state = open_study(open_store(str(study.store))).state
            return participation.is_over(state, study.sites)

        if self._cluster is not None or 0 < self.options.at_once < len(study.sites):
            take_turns(study, lambda turns: self._run_tasks(turns, n_at_once), is_over=is_over)
        elif not is_over():
            study.federate()

    def _slot(self, number: int = 0, *, n_at_once: int = 1, gpus: Sequence[str] = ()) -> Slot:
        n_job_cpus = None if self._cluster is None else self._cluster.n_cpus
        return slot_of(number, gpus=gpus, n_at_once=n_at_once, n_job_cpus=n_job_cpus)

    def _run_tasks(self, tasks: Sequence[Task], n_here: int) -> list[int]:
        """Run tasks as jobs if there is a cluster, otherwise so many at a time on this machine."""
        return run_here(tasks, n_here) if self._cluster is None else self._cluster.run(tasks)

    def _cancelled_with_us(self) -> contextlib.AbstractContextManager[None]:
        cluster = self._cluster
        return contextlib.nullcontext() if cluster is None else cluster.cancelled_with_us()

    def _export(self, study: LocalStudy, arm: str, folder: Path) -> dict[str, Path]:
        models = {}
        for site, host in (study.sites if arm == ASYM else {"": study.coordinator}).items():
            output = folder / "models" / (site or "global")
            pattern = f"{_DATASET}/*/plans.json"
            if not any(output.glob(pattern)):
                option = ("--site", site) if site else ()
                host.run("export", str(study.store), "-o", str(output), *option)
            models[site] = next(output.glob(pattern)).parent
        return models

    def _score(self, run: _Run, models: Mapping[str, Path]) -> dict[str, Any]:
        """Return site -> test case -> Dice and HD95, by the model that this arm has for the site.

        The external site is predicted by every model, and the mean of these is taken.
        """
        made: dict[str, list[PredictedSet]] = {}
        for split in self._splits:
            images = self.options.folder / "test" / split.site
            place_dataset(self.options.data, images, split.test)
            own = [models[split.site]] if split.site in models else list(models.values())
            made[split.site] = [
                PredictedSet(model, images, run.folder / "predicted" / split.site / str(i))
                for i, model in enumerate(own)
            ]
        all_sets = [one for sets in made.values() for one in sets]

        def look() -> tuple[object, str]:
            n_done = sum(one.is_done for one in all_sets)
            return n_done, f"{run.name}: predicted {n_done} of {len(all_sets)} sets of cases"

        with heartbeat(look, self.log):
            self._run_tasks(self._predictions(run, all_sets), 1)
        return {
            site: mean_scores([read_scores(one.output) for one in sets])
            for site, sets in made.items()
        }

    def _predictions(self, run: _Run, sets: Sequence[PredictedSet]) -> list[Prediction]:
        """Return a task for each model that has something left to predict."""
        by_model: dict[Path, list[PredictedSet]] = {}
        for one in sets:
            if not one.is_done:
                by_model.setdefault(one.model, []).append(one)
        tasks = []
        for number, parts in enumerate(by_model.values()):
            host = Host("scores", run.folder / "scores" / str(number), self._slot())
            host.folder.mkdir(parents=True, exist_ok=True)
            tasks.append(Prediction(host, tuple(parts), run.fold, self.options.device))
        return tasks


def _write(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))
