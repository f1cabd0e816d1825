"""Studies of an experiment: real ones, of real processes that share nothing but a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedfs.exchange.read import open_study
from fedfs.protocol import participation
from fedfs.roles.site.own_model import read_personal
from fedfs.roles.site.training import PERSONAL as PERSONAL_MODEL
from fedfs.roles.site.training import training_folder
from fedfs.simulation.arms import ALONE, ARMS, OF_SITE, PERSONAL, POOLED, Arm, Run
from fedfs.simulation.cases import place_dataset
from fedfs.simulation.heartbeat import heartbeat, look_at
from fedfs.simulation.hosts import Host, LocalStudy, all_results, ended_with_us
from fedfs.simulation.jobs import take_turns
from fedfs.simulation.machine import Machine
from fedfs.store import open_store

_DATASET = "Dataset900_Simulation"
_POOLED = "central"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedule and options of all studies of an experiment.

    Attributes:
        arms: all of the experiment; those of one study decide together what its sites do.
        learning_rate: that every training begins with; None for the trainer's own.
        init: further options of ``fedfs init``.
        run: further options of ``fedfs site run``.
    """

    arms: Sequence[str]
    rounds: int
    local_iterations: int
    val_iterations: int
    learning_rate: float | None = None
    init: Sequence[str] = ()
    run: Sequence[str] = ()


@dataclass(frozen=True)
class Studies:
    """Trains what arms need.

    Args:
        data: nnU-Net raw dataset of all cases.
        training: site -> cases.
        schedule: of all studies.
        machine: to run on.
        log: called with a line about each step.
    """

    data: Path
    training: Mapping[str, Sequence[str]]
    schedule: Schedule
    machine: Machine
    log: Callable[[str], None]

    def train(self, run: Run) -> dict[str, Path]:
        """Train what is not trained yet; return site (or ``""`` for all) -> model folder.

        Raises:
            FedfsError: a process failed; with the end of its log.
        """
        training, arm = self.training, ARMS[run.arm]
        if arm.sites == POOLED:
            pooled = tuple(case for cases in training.values() for case in cases)
            return self._study(run, run.studies / "study", {_POOLED: pooled})
        if arm.sites != ALONE:
            return self._study(run, run.studies / "study", training)

        def alone(site: str) -> Path:
            return self._study(run, run.studies / site, {site: training[site]})[""]

        n_at_once = self.machine.n_at_once(len(training))
        with (
            ThreadPoolExecutor(n_at_once) as pool,
            self.machine.cancelled_with_us(),
            ended_with_us(),
        ):
            return dict(zip(training, all_results(pool, alone, training), strict=True))

    def _study(self, run: Run, folder: Path, sites: Mapping[str, Sequence[str]]) -> dict[str, Path]:
        arm, schedule = ARMS[run.arm], self.schedule
        n_sites = 1 if arm.sites == POOLED else len(self.training)  # beside which others train
        n_at_once = self.machine.n_at_once(n_sites)
        hosts, numbers = {}, {site: number for number, site in enumerate(self.training)}
        for site, cases in sites.items():
            slot = self.machine.slot(numbers.get(site, 0), n_at_once=n_at_once)
            hosts[site] = Host(site, folder / "hosts" / site, slot).make()
            place_dataset(self.data, hosts[site].raw / _DATASET, cases)
        n_iterations = schedule.local_iterations * (len(self.training) if arm.is_equal else 1)
        rate = schedule.learning_rate
        study = LocalStudy(
            store=folder / "store",
            dataset=_DATASET,
            dataset_json=self.data / "dataset.json",
            coordinator=Host("coordinator", folder / "coordinator").make(),
            sites=hosts,
            init=(
                "--name", "simulation", "--mode", arm.mode, "-c", run.configuration,
                "--fold", run.fold, "--rounds", str(schedule.rounds),
                "--local-iterations", str(n_iterations),
                "--val-iterations", str(schedule.val_iterations), "--seed", str(run.seed),
                *(() if rate is None else ("--learning-rate", str(rate))),
                *arm.init, *schedule.init,
            ),
            run=(*self._options_of_sites(arm), *schedule.run),
        )  # fmt: skip
        name = f"{run.name}, {folder.name}" if arm.sites == ALONE else run.name
        with heartbeat(look_at(study.store, name), self.log):
            self._complete(study, n_at_once, personal=arm.model == PERSONAL)
        return _models(study, arm, folder, n_rounds=schedule.rounds)

    def _options_of_sites(self, arm: Arm) -> tuple[str, ...]:
        """Return the options that any arm of the same study needs its sites to have."""
        sharing = (ARMS[name] for name in self.schedule.arms if ARMS[name].study == arm.study)
        return tuple(dict.fromkeys(word for one in (arm, *sharing) for word in one.run))

    def _complete(self, study: LocalStudy, n_at_once: int, *, personal: bool) -> None:
        """Begin a study, or go on with it, to its end."""
        study.begin()

        def is_over() -> bool:
            if personal and not all(_has_personal_model(host) for host in study.sites.values()):
                return False
            state = open_study(open_store(str(study.store))).state
            return participation.is_over(state, study.sites)

        if self.machine.cluster is not None or 0 < self.machine.at_once < len(study.sites):
            take_turns(study, lambda turns: self.machine.run(turns, n_at_once), is_over=is_over)
        elif not is_over():
            study.federate()


def _has_personal_model(host: Host) -> bool:
    tracks = host.results.glob("fedfs/*/*/tracks/*")
    return any(read_personal(training_folder(track, PERSONAL_MODEL)) for track in tracks)


def _models(study: LocalStudy, arm: Arm, folder: Path, *, n_rounds: int) -> dict[str, Path]:
    """Return site (or ``""`` for all) -> model folder; export what is not exported yet."""
    if arm.model == PERSONAL:
        pattern = f"fedfs/*/*/personal-model/{_DATASET}/*/plans.json"
        found = {site: next(host.results.glob(pattern)) for site, host in study.sites.items()}
        return {site: path.parent for site, path in found.items()}
    options: dict[str, tuple[str, ...]] = {"global": ()}
    if arm.model == OF_SITE:
        options = {site: ("--site", site) for site in study.sites}
    elif arm.last > 1:
        last = str(min(arm.last, n_rounds))
        options = {f"average-{last}": ("--average-last", last)}
    models = {}
    for name, words in options.items():
        output, pattern = folder / "models" / name, f"{_DATASET}/*/plans.json"
        if not any(output.glob(pattern)):
            host = study.sites.get(name, study.coordinator)
            host.run("export", str(study.store), "-o", str(output), *words)
        models[name if name in study.sites else ""] = next(output.glob(pattern)).parent
    return models
