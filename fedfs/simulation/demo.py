"""A whole study on one machine, whose models are compared on cases that no site has seen.

Three hosts and a coordinator, each with a folder, keys and processes of its own, share nothing but
a store folder. A part of every site's cases is kept away from all of them. On these cases, which
include every site's kind of images, three models per site are compared: the federated one; the one
that ``fedfs site run --local-model`` trains on the site's data alone; and the personal one, which
``--personal`` makes of the federated one on the site's data. Local and personal models have the
same plan, initial weights and number of iterations in total.

Stopped at any moment, it goes on where it was: what is finished is on disk.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fedfs.errors import TrainingError
from fedfs.exchange.read import open_study
from fedfs.protocol import codec
from fedfs.roles.reader.export import Exported, export_versions, predict_commands
from fedfs.roles.reader.status import StudyStatus, summarize
from fedfs.roles.site.cases.page import FEDERATED
from fedfs.roles.site.training import LOCAL, PERSONAL, own_results
from fedfs.simulation import phantoms
from fedfs.simulation.cases import (
    Split,
    dice_by_case,
    place_dataset,
    raw_dataset_json,
    read_cases,
    split_cases,
    with_site_names,
)
from fedfs.simulation.demo_effort import QUICK, Effort
from fedfs.simulation.demo_page import (
    SiteScores,
    case_views,
    mean,
    model_name,
    site_scores,
    write_page,
)
from fedfs.simulation.gpu_slots import slot_of
from fedfs.simulation.hosts import Host, LocalStudy
from fedfs.simulation.jobs import PredictedSet, Prediction
from fedfs.simulation.kept_options import keep_options
from fedfs.store import open_store

_DATASET = "Dataset900_Demo"


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        iterations: model -> training iterations at each site.
        model: nnU-Net folder of the federated model.
        report: page with the table and pictures of the test cases.
        store: of the study.
        predict_command: by which the model predicts the test cases.
        seconds: by phase.
    """

    sites: tuple[SiteScores, ...]
    rounds: int
    iterations: Mapping[str, int]
    n_test_cases: int
    dice_local: float
    dice_federated: float
    dice_personal: float
    model: Path
    report: Path
    store: Path
    predict_command: str
    seconds: Mapping[str, float]


@dataclass
class Demo:
    """Runs the demo.

    Args:
        folder: everything goes in here.
        log: called with a line about each phase.
        watch: called with the study's status about every second while it runs.
        effort: size of it.
        data: nnU-Net raw dataset folder with ``cases.csv``; None for made-up images.
        seed: of the made-up images and the initial weights.
    """

    folder: Path
    log: Callable[[str], None]
    watch: Callable[[StudyStatus], None]
    effort: Effort = QUICK
    data: Path | None = None
    configuration: str = "2d"
    device: str | None = None
    seed: int = 12345
    _seconds: dict[str, float] = field(init=False, default_factory=dict)

    def run(self) -> DemoResult:
        """Do what is left to do.

        Raises:
            UserError: the data cannot be used, the demo in the folder is another one, or another
                process runs it.
            FedfsError: a process failed; with the end of its log.
        """
        options = {
            "data": str(self.data or "made up"),
            "configuration": self.configuration,
            "seed": self.seed,
            **codec.to_json(self.effort),
        }
        with keep_options(self.folder, "demo", options):
            return self._run()

    def _run(self) -> DemoResult:
        source, splits = self._data()
        hosts = self._hosts(source, splits)
        exported, study = self._train(source, hosts)
        models = {FEDERATED: exported[0].folder}
        for model in (LOCAL, PERSONAL):
            for name, host in hosts.items():
                models[model_name(model, name)] = _own_model(host, study, model)
        images = self.folder / "test"
        place_dataset(source, images, [case for split in splits for case in split.test])
        outputs = self._predict(images, models)
        dice = {name: _read_dice(output) for name, output in outputs.items()}
        sites = tuple(site_scores(split, dice) for split in splits)
        report = self.folder / "report.html"
        iterations = self._iterations()
        self._write_report(report, sites, iterations, splits, images, outputs)
        command = predict_commands(exported)[0]
        paths = {"IMAGES": images / "imagesTr", "PREDICTIONS": self.folder / "predictions"}
        for word, path in paths.items():
            command = command.replace(word, str(path))
        return DemoResult(
            sites=sites,
            rounds=self.effort.rounds,
            iterations=iterations,
            n_test_cases=len(dice[FEDERATED]),
            dice_local=mean([score.local_all for score in sites]),
            dice_federated=mean(list(dice[FEDERATED].values())),
            dice_personal=mean([score.personal_all for score in sites]),
            model=models[FEDERATED],
            report=report,
            store=self.folder / "store",
            predict_command=command,
            seconds=self._seconds,
        )

    def _data(self) -> tuple[Path, tuple[Split, ...]]:
        source = self.data or self.folder / "images"
        if self.data is None and not phantoms.is_written(source):
            self.log("making images of three hospitals whose scanners differ")
            effort = self.effort
            phantoms.write_dataset(
                source, n_cases=effort.n_cases, seed=self.seed, with_lesions=effort.with_lesions
            )
        cases = with_site_names(read_cases(source), self.log)
        return source, split_cases(cases, test_share=self.effort.test_share)

    def _hosts(self, source: Path, splits: Sequence[Split]) -> dict[str, Host]:
        hosts = {}
        for number, split in enumerate(splits):
            folder = self.folder / "sites" / split.site
            slot = slot_of(number, gpus=(), n_at_once=len(splits))
            host = Host(split.site, folder, slot).make()
            place_dataset(source, host.raw / _DATASET, split.training)
            hosts[split.site] = host
        return hosts

    def _iterations(self) -> dict[str, int]:
        effort = self.effort
        n_rounds = {LOCAL: effort.rounds, FEDERATED: effort.rounds, PERSONAL: effort.rounds}
        for model in (LOCAL, PERSONAL):
            n_rounds[model] += self.effort.tuning.n_epochs(effort.rounds)
        return {model: n * effort.local_iterations for model, n in n_rounds.items()}

    def _train(self, source: Path, hosts: Mapping[str, Host]) -> tuple[tuple[Exported, ...], str]:
        """Train the federated model, then two at each site; return the federated one, the study."""
        began_s, effort, iterations = time.monotonic(), self.effort, self._iterations()
        study = LocalStudy(
            store=self.folder / "store",
            dataset=_DATASET,
            dataset_json=source / "dataset.json",
            coordinator=Host("coordinator", self.folder / "coordinator").make(),
            sites=hosts,
            init=(
                "--name", "demo", "--configuration", self.configuration, "--fold", "0",
                "--rounds", str(effort.rounds),
                "--local-iterations", str(effort.local_iterations),
                "--val-iterations", str(effort.val_iterations),
                "--trainer", effort.trainer, "--seed", str(self.seed),
                "--gpu-memory-target", str(effort.gpu_memory_gb),
                *(word for o in effort.planner_options for word in ("--planner-option", o)),
            ),
            run=(
                "--local-model", "--personal", "--personal-share", str(self.effort.tuning.share),
                *(("--device", self.device) if self.device else ()),
            ),
        )  # fmt: skip
        self.log("the coordinator writes the charter, the hospitals join, the coordinator approves")
        study.begin()
        self.log(
            "each hospital trains on its own images; nothing but files in one folder is shared"
        )
        store = open_store(str(study.store))
        observer = open_study(store)
        exporting: Future[tuple[Exported, ...]] | None = None
        with ThreadPoolExecutor(1) as pool:

            def look() -> None:
                nonlocal began_s, exporting
                status = summarize(observer.refresh(everything=True))  # statuses of sites, too
                self.watch(status)
                if status.version == effort.rounds and exporting is None:
                    began_s = self._note("federation", began_s)
                    more = iterations[PERSONAL] - iterations[FEDERATED]
                    self.log(
                        f"each hospital trains a model alone ({iterations[LOCAL]} iterations), and "
                        f"the shared one further on its own images ({more})"
                    )
                    exporting = pool.submit(export_versions, store, self.folder / "model")

            study.federate(look)
            if exporting is None:
                raise TrainingError(
                    "The study ended before its last version.",
                    kind="crash",
                    hint=f"does nnU-Net plan {self.configuration} for these images? See: "
                    f"fedfs status {study.store}",
                )
            exported = exporting.result()
        self._note("own models", began_s)
        return exported, observer.state.charter.study

    def _predict(self, images: Path, models: Mapping[str, Path]) -> dict[str, Path]:
        """Let all models predict and score all test cases, in one process; return the outputs."""
        n_cases = sum(1 for _ in (images / "labelsTr").iterdir())
        self.log(f"{len(models)} models outline the {n_cases} test cases that no hospital saw")
        began_s = time.monotonic()
        host = Host("scores", self.folder / "scores").make()
        outputs = {name: host.folder / name for name in models}
        sets = tuple(PredictedSet(models[name], images, outputs[name]) for name in models)
        Prediction(host, sets, device=self.device)()
        self._note("prediction", began_s)
        return outputs

    def _write_report(
        self,
        path: Path,
        sites: Sequence[SiteScores],
        iterations: Mapping[str, int],
        splits: Sequence[Split],
        images: Path,
        outputs: Mapping[str, Path],
    ) -> None:
        began_s = time.monotonic()
        dataset_json = raw_dataset_json(images)
        write_page(
            path,
            sites,
            iterations=iterations,
            views=case_views(splits, images, outputs, str(dataset_json["file_ending"])),
            dataset_json=dataset_json,
            is_made_up=self.data is None,
            made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
        self._note("report", began_s)

    def _note(self, phase: str, began_s: float) -> float:
        """Note how long a phase lasted that ends now; return the time."""
        now_s = time.monotonic()
        self._seconds[phase] = round(now_s - began_s, 1)
        return now_s


def _own_model(host: Host, study: str, model: str) -> Path:
    """Return the folder of the local or the personal model that a site has made."""
    results = own_results(host.paths, study, host.name, model)
    (plans,) = results.glob(f"{_DATASET}/*/plans.json")
    return plans.parent


def _read_dice(output: Path) -> dict[str, float]:
    """Return test case -> mean foreground Dice, of one model."""
    scores = dice_by_case(output / "summary.json")
    return {case.split(".")[0]: mean(dice) for case, dice in scores}
