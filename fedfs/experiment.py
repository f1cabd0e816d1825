"""The paper's comparison on one machine: sites alone, federated in both modes, and all data pooled.

Each arm is a study of its own, of real processes that share nothing but a folder: ``local`` one of
a single site for each site, ``central`` one of a single site that has all training cases, ``ffe``
and ``asym`` one of all sites. All have the same number of rounds and iterations and nnU-Net's
schedule over all of them. A part of each site's cases, and all of an external site's, is kept away
from every arm and predicted by every model.

Stopped at any moment, it goes on where it was: what is finished is on disk.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedfs.errors import FedfsError, UserError
from fedfs.nnunet.predict import ScoreRequest
from fedfs.nnunet.process import run_isolated
from fedfs.observe import open_study
from fedfs.protocol import rounds
from fedfs.simulate import (
    Host,
    LocalStudy,
    Split,
    dice_by_case,
    place_dataset,
    read_cases,
    split_cases,
)
from fedfs.store import open_store

LOCAL, FFE, ASYM, CENTRAL = ARMS = ("local", "ffe", "asym", "central")
_DATASET = "Dataset900_Simulation"
_POOLED = "central"


@dataclass(frozen=True)
class ExperimentOptions:
    """What is compared.

    Attributes:
        folder: everything goes in here; an experiment that is there goes on.
        data: nnU-Net raw dataset with ``cases.csv``.
        arms: some of :data:`ARMS`.
        external: a site of which no case is trained on; None for none.
        folds: nnU-Net's folds; each is an experiment of its own.
        seeds: of the initial weights; likewise.
        test_share: share of every other site's cases that no arm may train on.
        init: further options of ``fedfs init``.
        gpus: as CUDA counts them, given to sites in turn; empty for whatever there is.
        at_once: sites that run at the same time; 0 for all.
    """

    folder: Path
    data: Path
    arms: Sequence[str] = ARMS
    external: str | None = None
    folds: Sequence[str] = ("0",)
    seeds: Sequence[int] = (1,)
    configuration: str = "2d"
    rounds: int = 20
    local_iterations: int = 50
    val_iterations: int = 5
    test_share: float = 0.25
    init: Sequence[str] = ()
    device: str | None = None
    gpus: Sequence[str] = ()
    at_once: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown or not self.arms:
            raise UserError(f"arm {unknown[0] if unknown else ''!r} is unknown",
                            hint=f"some of {', '.join(ARMS)}")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A method at a site: mean over test cases, and its spread over folds and seeds."""

    dice: float
    dice_sd: float | None
    hd95_mm: float | None
    n_cases: int


@dataclass(frozen=True)
class ExperimentResult:
    """What came out.

    Attributes:
        cells: arm -> site (the external one too, and ``mean`` of those that trained) -> numbers.
        n_training_cases: by site.
        external: the site that did not train.
    """

    cells: Mapping[str, Mapping[str, Cell]]
    n_training_cases: Mapping[str, int]
    external: str | None


@dataclass(frozen=True)
class _Run:
    """One arm, fold and seed."""

    arm: str
    fold: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}, fold {self.fold}, seed {self.seed}"


@dataclass
class Experiment:
    """Runs an experiment.

    Args:
        options: what to do.
        say: called with a line about each step.
    """

    options: ExperimentOptions
    say: Callable[[str], None]
    _splits: tuple[Split, ...] = field(init=False, default=())

    def run(self) -> ExperimentResult:
        """Do what is left to do; return the numbers.

        Raises:
            UserError: the data cannot be used.
            FedfsError: a process failed; with the end of its log.
        """
        options = self.options
        self._splits = self._split()
        scores: dict[str, list[dict[str, Any]]] = {}
        for fold, seed, arm in itertools.product(options.folds, options.seeds, options.arms):
            run = _Run(arm, fold, seed, options.folder / f"{arm}-fold{fold}-seed{seed}")
            done = run.folder / "scores.json"
            if not done.exists():
                self.say(f"{run.name}: training")
                models = self._train(run)
                self.say(f"{run.name}: predicting")
                found = self._score(run, models)
                _write(done, found)
            scores.setdefault(arm, []).append(json.loads(done.read_text()))
        return self._result(scores)

    def _split(self) -> tuple[Split, ...]:
        options = self.options
        cases = dict(read_cases(options.data))
        splits = []
        if options.external is not None:
            if options.external not in cases:
                raise UserError(
                    f"there is no site {options.external!r} in {options.data / 'cases.csv'}",
                    hint=f"sites: {', '.join(cases)}",
                )
            splits.append(Split(options.external, (), tuple(cases.pop(options.external))))
        return (*split_cases(cases, test_share=options.test_share), *splits)

    @property
    def _training(self) -> tuple[Split, ...]:
        return tuple(split for split in self._splits if split.training)

    def _train(self, run: _Run) -> dict[str, Path]:
        """Run an arm's studies; return site (or ``""`` for all) -> model folder."""
        training = {split.site: split.training for split in self._training}
        if run.arm == LOCAL:

            def alone(site: str) -> Path:
                return self._study(run, run.folder / site, {site: training[site]})[""]

            with ThreadPoolExecutor(self.options.at_once or len(training)) as pool:
                return dict(zip(training, pool.map(alone, training), strict=True))
        if run.arm == CENTRAL:
            pooled = tuple(case for cases in training.values() for case in cases)
            return self._study(run, run.folder / "study", {_POOLED: pooled})
        return self._study(run, run.folder / "study", training)

    def _study(
        self, run: _Run, folder: Path, sites: Mapping[str, Sequence[str]]
    ) -> dict[str, Path]:
        options, store = self.options, folder / "store"
        n_at_once = options.at_once or len(self._training)
        threads = max(1, (os.cpu_count() or 1) // min(n_at_once, len(self._training)))
        hosts = {}
        for number, (site, cases) in enumerate(sites.items()):
            gpu = options.gpus[number % len(options.gpus)] if options.gpus else None
            hosts[site] = Host(site, folder / "hosts" / site, threads, gpu).make()
            place_dataset(options.data, hosts[site].raw / _DATASET, cases)
        mode = ASYM if run.arm == ASYM else FFE
        study = LocalStudy(
            store=store,
            dataset=_DATASET,
            dataset_json=options.data / "dataset.json",
            coordinator=Host("coordinator", folder / "coordinator").make(),
            sites=hosts,
            init=(
                "--name", "simulation", "--mode", mode, "-c", options.configuration,
                "--fold", run.fold, "--rounds", str(options.rounds),
                "--local-iterations", str(options.local_iterations),
                "--val-iterations", str(options.val_iterations), "--seed", str(run.seed),
                *options.init,
            ),
            run=("--device", options.device) if options.device else (),
        )  # fmt: skip
        study.begin()
        if options.at_once and options.at_once < len(sites):
            study.in_turn(options.at_once)
        elif not rounds.is_over(open_study(open_store(str(store))).state, hosts):
            study.federate()
        return dict(self._export(study, run.arm, folder))

    def _export(self, study: LocalStudy, arm: str, folder: Path) -> Iterator[tuple[str, Path]]:
        owners = study.sites if arm == ASYM else {"": study.coordinator}
        for site, host in owners.items():
            output = folder / "models" / (site or "global")
            found = list(output.glob(f"{_DATASET}/*/plans.json"))
            if not found:
                words = ("--site", site) if site else ()
                host.run("export", str(study.store), "-o", str(output), *words)
                found = list(output.glob(f"{_DATASET}/*/plans.json"))
            yield site, found[0].parent

    def _score(self, run: _Run, models: Mapping[str, Path]) -> dict[str, Any]:
        """Return site -> test case -> Dice and HD95, by the model that this arm has for the site.

        The external site is predicted by every model, and the mean of these is taken.
        """
        out: dict[str, Any] = {}
        for split in self._splits:
            images = self.options.folder / "test" / split.site
            place_dataset(self.options.data, images, split.test)
            own = [models[split.site]] if split.site in models else list(models.values())
            parts = [
                self._predict(model, images, run, run.folder / "predicted" / split.site / str(i))
                for i, model in enumerate(own)
            ]
            out[split.site] = {
                case: {
                    name: _mean([part[case][name] for part in parts]) for name in ("dice", "hd95")
                }
                for case in parts[0]
            }
        return out

    def _predict(self, model: Path, images: Path, run: _Run, output: Path) -> dict[str, Any]:
        host = Host("scores", run.folder / "scores", threads=os.cpu_count() or 1)
        host.folder.mkdir(parents=True, exist_ok=True)
        request = ScoreRequest(
            model=str(model),
            fold=run.fold,
            images=str(images / "imagesTr"),
            labels=str(images / "labelsTr"),
            output=str(output),
            device=self.options.device,
            use_mirroring=False,
        )
        if not (output / "hd95.json").exists():
            run_isolated("score", request, environ=host.environment(), workdir=host.folder)
        distances = json.loads((output / "hd95.json").read_text())
        found = {}
        for name, dice in dice_by_case(output / "summary.json"):
            found[name] = {
                "dice": _mean(dice), "hd95": _mean(list(distances.get(name, {}).values())),
            }  # fmt: skip
        return found

    def _result(self, scores: Mapping[str, list[dict[str, Any]]]) -> ExperimentResult:
        trained = [split.site for split in self._training]
        cells: dict[str, dict[str, Cell]] = {}
        for arm, repeats in scores.items():
            row = {split.site: _cell([r[split.site] for r in repeats]) for split in self._splits}
            together = [
                {f"{site}/{case}": v for site in trained for case, v in r[site].items()}
                for r in repeats
            ]
            cells[arm] = {**row, "mean": _cell(together)}
        counts = {split.site: len(split.training) for split in self._training}
        return ExperimentResult(cells, counts, self.options.external)


def _cell(repeats: Sequence[Mapping[str, Mapping[str, float | None]]]) -> Cell:
    means = [_mean([v["dice"] for v in cases.values()]) for cases in repeats]
    known = [mean for mean in means if mean is not None]
    if not known:
        raise FedfsError("no test case holds a class of the study")
    distances = [v["hd95"] for cases in repeats for v in cases.values()]
    return Cell(
        dice=fmean(known),
        dice_sd=stdev(known) if len(known) > 1 else None,
        hd95_mm=_mean(distances),
        n_cases=len(repeats[0]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _write(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
