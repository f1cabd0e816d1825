"""A whole study on one machine, whose models are compared on cases that no site has seen.

Three hosts and a coordinator, each with a folder, keys and processes of its own, share nothing but
a store folder. A part of every site's cases is kept away from all of them. On these cases, which
include every site's kind of images, two models per site are compared: the federated one, and the
one that ``fedfs site run --local-model`` trains on the site's data alone, with the same plan, the
same initial weights and the same number of iterations.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedfs.errors import TrainingError
from fedfs.exchange.read import open_study
from fedfs.roles.reader.export import export_versions, predict_commands
from fedfs.roles.reader.status import StudyStatus, summarize
from fedfs.simulation import phantoms
from fedfs.simulation.cases import (
    Split,
    dice_by_case,
    place_dataset,
    read_cases,
    split_cases,
    with_site_names,
)
from fedfs.simulation.gpu_slots import slot_of
from fedfs.simulation.hosts import Host, LocalStudy
from fedfs.simulation.jobs import Prediction, run_here
from fedfs.store import open_store

_DATASET = "Dataset900_Demo"


PLANNER_OPTIONS = ("UNet_base_num_features=16", "UNet_max_features_2d=128")
"""A network that two CPU cores can train; everything else is nnU-Net's own plan."""

_N_CASES: Mapping[str, int] = {"east": 12, "north": 16, "south": 12}
_TEST_SHARE = 0.25  # of every site's cases: no site may train on them
_SEED = 12345


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
    """Results of the demo; ``seconds`` by phase."""

    sites: tuple[SiteScores, ...]
    rounds: int
    n_test_cases: int
    dice_local: float
    dice_federated: float
    model: Path
    predict_command: str
    seconds: Mapping[str, float]


@dataclass
class Demo:
    """Runs the demo.

    Args:
        folder: everything goes in here.
        log: called with a line about each phase.
        watch: called with the study's status about every second while it runs.
        data: nnU-Net raw dataset folder with ``cases.csv``; None for made-up images.
    """

    folder: Path
    log: Callable[[str], None]
    watch: Callable[[StudyStatus], None]
    data: Path | None = None
    configuration: str = "2d"
    rounds: int = 12
    local_iterations: int = 40
    device: str | None = None
    _seconds: dict[str, float] = field(init=False, default_factory=dict)

    def run(self) -> DemoResult:
        """Do all of it.

        Raises:
            UserError: the data cannot be used.
            FedfsError: a process failed; with the end of its log.
        """
        source, splits = self._data()
        hosts = self._hosts(source, splits)
        self._train(source, hosts)
        exported = export_versions(open_store(str(self.folder / "store")), self.folder / "model")
        federated = exported[0].folder
        self.log(f"all models predict the {sum(len(s.test) for s in splits)} cases kept away")
        models = {"federated": federated, **{name: _local_model(h) for name, h in hosts.items()}}
        began_s = time.monotonic()
        dice = self._score(source, splits, models)
        self._note("prediction", began_s)
        sites = tuple(_site_scores(split, dice) for split in splits)
        return DemoResult(
            sites=sites,
            rounds=self.rounds,
            n_test_cases=len(dice["federated"]),
            dice_local=_mean([score.local_all for score in sites]),
            dice_federated=_mean(list(dice["federated"].values())),
            model=federated,
            predict_command=predict_commands(exported)[0],
            seconds=self._seconds,
        )

    def _data(self) -> tuple[Path, tuple[Split, ...]]:
        source = self.data or self.folder / "images"
        if self.data is None:
            self.log("making images of three hospitals whose scanners differ")
            phantoms.write_dataset(source, n_cases=_N_CASES, seed=_SEED)
        cases = with_site_names(read_cases(source), self.log)
        return source, split_cases(cases, test_share=_TEST_SHARE)

    def _hosts(self, source: Path, splits: Sequence[Split]) -> dict[str, Host]:
        hosts = {}
        for number, split in enumerate(splits):
            folder = self.folder / "sites" / split.site
            slot = slot_of(number, gpus=(), n_at_once=len(splits))
            host = Host(split.site, folder, slot).make()
            place_dataset(source, host.raw / _DATASET, split.training)
            hosts[split.site] = host
        return hosts

    def _train(self, source: Path, hosts: Mapping[str, Host]) -> None:
        """Train the federated model, and then a model at each site alone."""
        began_s = time.monotonic()
        study = LocalStudy(
            store=self.folder / "store",
            dataset=_DATASET,
            dataset_json=source / "dataset.json",
            coordinator=Host("coordinator", self.folder / "coordinator").make(),
            sites=hosts,
            init=(
                "--name", "demo", "--configuration", self.configuration, "--fold", "0",
                "--rounds", str(self.rounds),
                "--local-iterations", str(self.local_iterations), "--val-iterations", "5",
                "--gpu-memory-target", "0.02", "--seed", str(_SEED),
                *(word for o in PLANNER_OPTIONS for word in ("--planner-option", o)),
            ),
            run=("--local-model", *(("--device", self.device) if self.device else ())),
        )  # fmt: skip
        self.log("the coordinator writes the charter, the sites join, the coordinator approves")
        study.begin()
        self.log(f"one process per site and one aggregator share nothing but {study.store}")
        observer = open_study(open_store(str(study.store)))

        def look() -> None:
            nonlocal began_s
            status = summarize(observer.refresh(everything=True))  # statuses of sites, too
            if status.version == self.rounds and "federation" not in self._seconds:
                began_s = self._note("federation", began_s)
                self.log("each site trains alone, for the same number of iterations")
            self.watch(status)

        study.federate(look)
        self._note("local training", began_s)

    def _score(
        self, source: Path, splits: Sequence[Split], models: Mapping[str, Path]
    ) -> dict[str, dict[str, float]]:
        """Return model -> test case -> mean foreground Dice."""
        host = Host("scores", self.folder / "scores")
        images = host.folder / "test"
        place_dataset(source, images, [case for split in splits for case in split.test])
        predictions = {
            name: Prediction(host, model, images, host.folder / name, device=self.device)
            for name, model in models.items()
        }
        run_here(list(predictions.values()), os.cpu_count() or 1)
        return {
            name: {
                case.split(".")[0]: _mean(dice)
                for case, dice in dice_by_case(one.output / "summary.json")
            }
            for name, one in predictions.items()
        }

    def _note(self, phase: str, began_s: float) -> float:
        """Note how long a phase lasted that ends now; return the time."""
        now_s = time.monotonic()
        self._seconds[phase] = round(now_s - began_s, 1)
        return now_s


def _local_model(host: Host) -> Path:
    """Return the model folder that ``fedfs site run --local-model`` has written at a site."""
    (plans,) = host.results.glob(f"fedfs/**/local-model/{_DATASET}/*/plans.json")
    return plans.parent


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
        raise TrainingError("There is nothing to score.", kind="no-cases")
    return sum(values) / len(values)
