"""The whole of a study on one machine, measured honestly.

Three hosts and a coordinator, each with a folder, keys and processes of its own, share nothing but
a store folder. A part of every site's cases is kept away from all of them. On these cases, which
include every site's kind of images, two models per site are compared: the federated one, and one
that the site trained on its own data alone, with the same plan, the same initial weights and the
same number of iterations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import FedfsError, TrainingError
from fedfs.exchange.fetching import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.read import Observer, open_study
from fedfs.learner import Progress
from fedfs.nnunet.baseline import LocalRequest
from fedfs.nnunet.score.predict import ScoreRequest
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.roles.reader.export import export_versions, predict_commands
from fedfs.roles.reader.status import StudyStatus, summarize
from fedfs.simulation import phantoms
from fedfs.simulation.cases import Split, dice_by_case, place_dataset, read_cases, split_cases
from fedfs.simulation.hosts import Host, LocalStudy
from fedfs.store import open_store

_DATASET = "Dataset900_Demo"


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does.

    Attributes:
        folder: everything goes in here.
        data: nnU-Net raw dataset folder with ``cases.csv``; None for made-up images.
        test_share: share of every site's cases that no site may train on.
        planner_options: as in ``fedfs init``; a small network, for a CPU.
    """

    folder: Path
    data: Path | None = None
    configuration: str = "2d"
    rounds: int = 12
    local_iterations: int = 40
    val_iterations: int = 5
    test_share: float = 0.25
    gpu_memory_target_gb: float = 0.02
    device: str | None = None
    seed: int = 12345


PLANNER_OPTIONS = ("UNet_base_num_features=16", "UNet_max_features_2d=128")
"""A network that two CPU cores can train; everything else is nnU-Net's own plan."""

N_CASES: Mapping[str, int] = {"east": 12, "north": 16, "south": 12}


@dataclass(frozen=True)
class SiteScores:
    """Mean foreground Dice at one site, of its own model and of the federated one.

    ``own`` is on test cases of this site's kind, ``all`` on the test cases of all sites.
    """

    site: str
    n_training_cases: int
    local_own: float
    local_all: float
    federated_own: float
    federated_all: float


@dataclass(frozen=True)
class DemoResult:
    """What came out; ``seconds`` by phase."""

    sites: tuple[SiteScores, ...]
    rounds: int
    n_test_cases: int
    dice_local: float
    dice_federated: float
    model: Path
    predict_command: str
    seconds: Mapping[str, float]


Say = Callable[[str], None]


class Demo:
    """Runs the demo.

    Args:
        options: what to do.
        say: called with a line about each phase.
        watch: called with the study's status about every second while it runs.
        progress: called with a site's name and its progress while it trains alone.
    """

    def __init__(
        self,
        options: DemoOptions,
        *,
        say: Say,
        watch: Callable[[StudyStatus], None],
        progress: Callable[[str, Progress], None],
    ) -> None:
        self._options = options
        self._say = say
        self._watch = watch
        self._progress = progress
        self._store = options.folder / "store"
        self._scores = options.folder / "scores"
        self._coordinator = Host("coordinator", options.folder / "coordinator").make()
        self._seconds: dict[str, float] = {}

    def run(self) -> DemoResult:
        """Do all of it.

        Raises:
            UserError: the data cannot be used.
            FedfsError: a process failed; with the end of its log.
        """
        source, splits = self._data()
        hosts = self._hosts(source, splits)
        self._timed("federation", lambda: self._federate(source, hosts))
        made = export_versions(open_store(str(self._store)), self._options.folder / "model")
        exported = made[0]
        self._say("each site trains alone, for the same number of iterations")
        local_models = self._timed("local training", lambda: self._train_alone(hosts))
        self._say(f"all models predict the {sum(len(s.test) for s in splits)} cases kept away")
        models = {"federated": exported.folder, **local_models}
        dice = self._timed("prediction", lambda: self._score(source, splits, models))
        sites = tuple(_site_scores(split, dice) for split in splits)
        return DemoResult(
            sites=sites,
            rounds=self._options.rounds,
            n_test_cases=len(dice["federated"]),
            dice_local=_mean([score.local_all for score in sites]),
            dice_federated=_mean(list(dice["federated"].values())),
            model=exported.folder,
            predict_command=predict_commands(made)[0],
            seconds=self._seconds,
        )

    def _data(self) -> tuple[Path, tuple[Split, ...]]:
        source = self._options.data
        if source is None:
            source = self._options.folder / "images"
            self._say("making images of three hospitals whose scanners differ")
            phantoms.write_dataset(source, n_cases=N_CASES, seed=self._options.seed)
        splits = split_cases(read_cases(source), test_share=self._options.test_share)
        return source, splits

    def _hosts(self, source: Path, splits: Sequence[Split]) -> dict[str, Host]:
        threads = max(1, (os.cpu_count() or 1) // len(splits))
        hosts = {}
        for split in splits:
            host = Host(split.site, self._options.folder / "sites" / split.site, threads).make()
            place_dataset(source, host.raw / _DATASET, split.training)
            hosts[split.site] = host
        return hosts

    def _federate(self, source: Path, hosts: Mapping[str, Host]) -> None:
        options = self._options
        study = LocalStudy(
            store=self._store,
            dataset=_DATASET,
            dataset_json=source / "dataset.json",
            coordinator=self._coordinator,
            sites=hosts,
            init=(
                "--name", "demo", "--configuration", options.configuration, "--fold", "0",
                "--rounds", str(options.rounds),
                "--local-iterations", str(options.local_iterations),
                "--val-iterations", str(options.val_iterations),
                "--gpu-memory-target", str(options.gpu_memory_target_gb),
                "--seed", str(options.seed),
                *(word for o in PLANNER_OPTIONS for word in ("--planner-option", o)),
            ),
            run=("--device", options.device) if options.device else (),
        )  # fmt: skip
        self._say("the coordinator writes the charter, the sites join, the coordinator approves")
        study.begin()
        self._say(f"one process per site and one aggregator share nothing but {self._store}")
        observer: Observer = open_study(open_store(str(self._store)))
        study.federate(lambda: self._watch(summarize(observer.refresh())))

    def _train_alone(self, hosts: Mapping[str, Host]) -> dict[str, Path]:
        """Train one model per site on its own data, from version 0 of the federation."""
        store, options = open_store(str(self._store)), self._options
        state = open_study(store).state
        if state.plan is None:
            raise FedfsError("the federation left no plan")
        initial = fetch_payload(
            store, state.models[0].payload, options.folder / "initial", max_bytes=MAX_MODEL_BYTES
        )
        plan, spec = state.plan, state.charter.nnunet

        def train(host: Host) -> Path:
            results = host.folder / "alone"
            results.mkdir(exist_ok=True)
            request = LocalRequest(
                raw=str(host.raw),
                preprocessed=str(host.preprocessed),
                results=str(results),
                dataset=_DATASET,
                plans=plan.plans,
                fingerprint=plan.fingerprint,
                tensors=str(initial),
                configuration=spec.configuration,
                trainer=spec.trainer,
                fold=spec.fold,
                state_dir=str(host.folder / "alone-state"),
                epochs=options.rounds,
                iterations_per_epoch=options.local_iterations,
                val_iterations_per_epoch=options.val_iterations,
                device=options.device,
            )
            environ = {**host.environment(), "nnUNet_results": str(results)}
            done = run_isolated(
                "train_local",
                request,
                environ=environ,
                workdir=host.folder,
                on_progress=lambda progress: self._progress(host.name, progress),
            )
            return Path(done["model"])

        with ThreadPoolExecutor(len(hosts)) as pool:
            return dict(zip(hosts, pool.map(train, hosts.values()), strict=True))

    def _score(
        self, source: Path, splits: Sequence[Split], models: Mapping[str, Path]
    ) -> dict[str, dict[str, float]]:
        """Return model -> test case -> mean foreground Dice."""
        test = [case for split in splits for case in split.test]
        place_dataset(source, self._scores / "test", test)
        host = Host("scores", self._scores, threads=1)

        def score(name: str) -> dict[str, float]:
            output = self._scores / name
            request = ScoreRequest(
                model=str(models[name]),
                fold="0",
                images=str(self._scores / "test" / "imagesTr"),
                labels=str(self._scores / "test" / "labelsTr"),
                output=str(output),
                device=self._options.device,
                use_mirroring=False,
            )
            run_isolated("score", request, environ=host.environment(), workdir=self._scores)
            cases = dice_by_case(output / "summary.json")
            return {name.split(".")[0]: _mean(dice) for name, dice in cases}

        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1))) as pool:
            return dict(zip(models, pool.map(score, models), strict=True))

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        began_s = time.monotonic()
        try:
            return work()
        finally:
            self._seconds[phase] = round(time.monotonic() - began_s, 1)


def _site_scores(split: Split, dice: Mapping[str, Mapping[str, float]]) -> SiteScores:
    local, federated = dice[split.site], dice["federated"]
    return SiteScores(
        site=split.site,
        n_training_cases=len(split.training),
        local_own=_mean([local[case] for case in split.test]),
        local_all=_mean(list(local.values())),
        federated_own=_mean([federated[case] for case in split.test]),
        federated_all=_mean(list(federated.values())),
    )


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise TrainingError("there is nothing to score", kind="no-cases")
    return sum(values) / len(values)
