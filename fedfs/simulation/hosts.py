"""Several hosts on one machine: a folder, an environment and operating-system processes for each.

Hosts share nothing but the store: each has its own nnU-Net folders, its own keys, its own
processes.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import FedfsError, UserError
from fedfs.nnunet.data.dataset import NATURAL_IMAGES

_TERMINATE_S = 20.0
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Host:
    """One hospital's (or the coordinator's) machine, in a folder.

    Attributes:
        name: the site's name.
        folder: holds ``nnUNet_raw``, ``nnUNet_preprocessed``, ``nnUNet_results``, ``fedfs``, logs.
        threads: CPU threads a process of this host may use.
        gpu: its GPU, as CUDA counts them; None for all that there are.
        workers: processes beside the one that trains; 0 where hosts share cores.
    """

    name: str
    folder: Path
    threads: int = 1
    gpu: str | None = None
    workers: int = 0

    @property
    def raw(self) -> Path:
        """This host's ``nnUNet_raw``."""
        return self.folder / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """This host's ``nnUNet_preprocessed``."""
        return self.folder / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        """This host's ``nnUNet_results``."""
        return self.folder / "nnUNet_results"

    def make(self) -> Host:
        """Make the folders."""
        for folder in (self.raw, self.preprocessed, self.results):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def environment(self) -> dict[str, str]:
        """Return the environment of this host's processes."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("nnUNet_", "FEDFS_"))
        }
        threads = str(self.threads)
        return {
            **inherited,
            **({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu is not None else {}),
            "FEDFS_HOME": str(self.folder / "fedfs"),
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_n_proc_DA": str(self.workers),  # 0: augmentation in the training process
            "nnUNet_def_n_proc": str(max(1, self.workers)),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *arguments: str) -> str:
        """Run a fedfs command to its end and return what it printed.

        Raises:
            FedfsError: it failed; with what it said.
        """
        done = subprocess.run(
            [sys.executable, "-m", "fedfs", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise FedfsError(
                f"fedfs {' '.join(arguments)} on {self.name} exited with {done.returncode}:\n"
                + done.stderr.strip()
            )
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a fedfs command as a process of its own; it logs to :attr:`log_path`."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fedfs", *arguments],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def log_path(self) -> Path:
        """Where started processes log."""
        return self.folder / "log.txt"

    def log_tail(self, n_lines: int = 15) -> str:
        """Return the end of the log."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-n_lines:])


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that still run, gently first."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=_TERMINATE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class LocalStudy:
    """A study of hosts on this machine.

    Attributes:
        store: its folder.
        dataset: name of the raw dataset at every site.
        dataset_json: what all sites have to agree with.
        coordinator: also runs the aggregator.
        sites: site -> host.
        init: options of ``fedfs init``.
        join: site -> options of ``fedfs site join``.
        run: options of ``fedfs site run``.
    """

    store: Path
    dataset: str
    dataset_json: Path
    coordinator: Host
    sites: Mapping[str, Host]
    init: Sequence[str] = ()
    join: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Sequence[str] = ()

    def begin(self) -> None:
        """Write the charter, let all sites join, approve them; or go on with that.

        Raises:
            FedfsError: a command failed; with what it said.
        """
        store = str(self.store)
        if not (self.store / "federation").exists():
            self.coordinator.run(
                "init", store, "--dataset-json", str(self.dataset_json),
                "--dataset-name", self.dataset, "--min-sites", str(len(self.sites)), *self.init,
            )  # fmt: skip
        for site, host in self.sites.items():  # asking again changes nothing
            options = self.join.get(site, ())
            host.run("site", "join", store, "--site", site, "--dataset", self.dataset, *options)
        self.coordinator.run("approve", store, "--all")

    def federate(self, look: Callable[[], None] = lambda: None) -> None:
        """Run a process per site and one aggregator until all of them have finished.

        Args:
            look: called about every second meanwhile; what it raises ends the study.

        Raises:
            FedfsError: a process failed; with the end of its log.
        """
        store = str(self.store)
        processes = {
            site: host.start("site", "run", store, "--site", site, "-np", "1", *self.run)
            for site, host in self.sites.items()
        }
        processes["aggregator"] = self.coordinator.start("aggregate", store)
        hosts = {**self.sites, "aggregator": self.coordinator}
        try:
            while True:
                codes = {name: process.poll() for name, process in processes.items()}
                look()
                for name, code in codes.items():
                    if code not in (None, 0):
                        raise FedfsError(
                            f"the process of {name} exited with {code}:\n{hosts[name].log_tail()}"
                        )
                if all(code == 0 for code in codes.values()):
                    return
                time.sleep(_LOOK_EVERY_S)
        finally:
            stop(list(processes.values()))


@dataclass(frozen=True)
class Split:
    """Cases of one site: for training (and its own validation), and kept away from every site."""

    site: str
    training: tuple[str, ...]
    test: tuple[str, ...]


def read_cases(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Return site -> cases from the ``cases.csv`` of an nnU-Net raw dataset folder.

    Raises:
        UserError: the file is missing, or has no columns ``case`` and ``site``.
    """
    path = folder / "cases.csv"
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}",
            hint="the folder needs imagesTr, labelsTr, dataset.json, and cases.csv (case,site)",
        ) from error
    if not rows or not {"case", "site"} <= set(rows[0]):
        raise UserError(f"{path} has no columns 'case' and 'site'")
    sites: dict[str, list[str]] = {}
    for row in rows:
        sites.setdefault(row["site"], []).append(row["case"])
    return {site: tuple(sorted(cases)) for site, cases in sorted(sites.items())}


def split_cases(cases: Mapping[str, Sequence[str]], *, test_share: float) -> tuple[Split, ...]:
    """Keep every n-th case of each site for the test that all models take.

    Raises:
        UserError: a site has too few cases to keep one away and train on five.
    """
    every = max(2, round(1 / test_share))
    out = []
    for site, names in sorted(cases.items()):
        test = tuple(names[every - 1 :: every])
        training = tuple(name for name in names if name not in test)
        if not test or len(training) < 5:  # noqa: PLR2004  nnU-Net's five folds
            raise UserError(f"site {site} has {len(names)} cases, too few to split")
        out.append(Split(site, training, test))
    return tuple(out)


def dice_by_case(summary: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield each case's reference file, and the Dice of the classes that occur in it.

    Args:
        summary: nnU-Net's ``summary.json``.
    """
    for case in json.loads(summary.read_text())["metric_per_case"]:
        dice = (metrics["Dice"] for metrics in case["metrics"].values())
        found = [value for value in dice if not math.isnan(value)]  # NaN: no such class
        yield Path(case["reference_file"]).name, found


def raw_dataset_json(folder: Path) -> dict[str, Any]:
    """Return the ``dataset.json`` of a raw dataset.

    Raises:
        UserError: it is none.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
        found["file_ending"], found["channel_names"], found["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not an nnU-Net raw dataset: {error}") from error
    return found


def place_dataset(source: Path, target: Path, cases: Sequence[str], *, prefix: str = "") -> None:
    """Make an nnU-Net raw dataset of some cases of another, by links.

    Args:
        source: raw dataset.
        target: folder to make, or to add to.
        cases: names in the source.
        prefix: put before their names in the target.

    Raises:
        UserError: the source is not an nnU-Net raw dataset, or lacks a case.
    """
    dataset = raw_dataset_json(source)
    ending, n_channels = str(dataset["file_ending"]), len(dataset["channel_names"])
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for case in cases:
        names = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(n_channels)]
        if ending.lower() in NATURAL_IMAGES:  # the first may hold all channels
            names = [n for n in names if n == names[0] or (source / n).is_file()]
        # Spacings of TIFF files, where nnU-Net's reader looks for them.
        beside = [f"{sub}/{case}.json" for sub in ("imagesTr", "labelsTr")]
        names += [name for name in beside if (source / name).is_file()]
        for name in (*names, f"labelsTr/{case}{ending}"):
            if not (source / name).is_file():
                raise UserError(f"{source} lacks {name}")
            folder, _, file = name.partition("/")
            link = target / folder / f"{prefix}{file}"
            if not link.exists():
                link.symlink_to((source / name).resolve())
    dataset["numTraining"] = len(cases)
    (target / "dataset.json").write_text(json.dumps(dataset, indent=1))
