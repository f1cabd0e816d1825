"""What an iteration of training costs at a site of a federation, beside nnU-Net's own loop.

Two trainers of the same plan and data take turns in one process: fedfs's learner, a round of one
epoch at a time, and ``nnUNetTrainer.run_training``, an epoch at a time. The order changes with
every pair of such blocks (A B, B A, ...), and both blocks of a pair draw the same random numbers,
so that they train on the same batches. Printed are, in time on the wall and in CPU time of this
process, which is what to look at on a machine that does other work too:

* iteration: loading, ``train_step``, and what the loop does until the next one. Each iteration is
  compared with its like in the other block; a pair's ratio is the median of these.
* of it, own: the last part alone. At fedfs that is a look at the loss, and the report of progress
  with the site's status, published every 15 seconds.
* epoch: a whole block. nnU-Net's holds validation, log, ``progress.png`` and the checkpoints that
  it writes; fedfs's also loads the round's weights, writes its checkpoint, hashes it, and copies
  the weights out, but draws ``progress.png`` once a minute only.

The ratio is the median over pairs, with its 95 % interval; below 1 fedfs is faster.

    python bench/trainer.py                                      # made-up images, a small 2d net
    python bench/trainer.py --data DIR -c 3d_fullres --full --device cuda --iterations 250

Data are loaded in the training process, unless nnUNet_n_proc_DA says otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset

DATASET = "Dataset001_Trainer"
SEED = 1
SMALL = {"UNet_base_num_features": 16, "UNet_max_features_2d": 128, "UNet_max_features_3d": 128}
Seconds = tuple[float, float]
"""On the wall, and of this process's CPU time."""


class Timer:
    """Notes what a trainer's iterations and epochs take; the loops are as they are."""

    def __init__(self, now: Callable[[], Seconds]) -> None:
        self._now = now
        self._loading: list[Seconds] = []
        self._stepped: list[Seconds] = []
        self.iterations: list[list[Seconds]] = []
        self.own: list[list[Seconds]] = []
        self.epochs: list[list[Seconds]] = []

    def attach(self, trainer: Any) -> None:
        step, end = trainer.train_step, trainer.on_train_epoch_end

        def stepped(batch: Any) -> Any:
            result = step(batch)
            self._stepped.append(self._now())
            return result

        def ended(outputs: Any) -> None:
            self._loading.append(self._now())
            end(outputs)

        trainer.train_step, trainer.on_train_epoch_end = stepped, ended
        trainer.dataloader_train = NotedLoader(
            trainer.dataloader_train, lambda: self._loading.append(self._now())
        )

    def run(self, block: Callable[[], None]) -> None:
        self._loading.clear()
        self._stepped.clear()
        began = self._now()
        block()
        self.epochs.append([_since(began, self._now())])
        self.iterations.append([_since(*pair) for pair in itertools.pairwise(self._loading)])
        self.own.append(
            [_since(*pair) for pair in zip(self._stepped, self._loading[1:], strict=True)]
        )


class NotedLoader:
    """nnU-Net's loader; ``note`` is called before each batch."""

    def __init__(self, loader: Any, note: Callable[[], None]) -> None:
        self._loader, self._note = loader, note

    def __next__(self) -> Any:
        self._note()
        return next(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _since(began: Seconds, now: Seconds) -> Seconds:
    return now[0] - began[0], now[1] - began[1]


def clock(device: str) -> Callable[[], Seconds]:
    import torch

    def now() -> Seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    return now


def seed(number: int) -> None:
    import numpy as np
    import torch

    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  nnU-Net draws from the global stream
    torch.manual_seed(number)


class Bench:
    """Both trainers, over one preprocessed dataset."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        from fedfs.nnunet.nnunet_learner import LearnerSettings, NnUNetLearner
        from fedfs.nnunet.settings import Planning
        from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths

        paths = NnUNetPaths(*(folder / name for name in ("raw", "preprocessed", "results")))
        for path in (paths.raw, paths.preprocessed, paths.results):
            path.mkdir()
        dataset_json = _place(options.data, folder, paths.raw / DATASET)
        self.folder, self.paths, self.options = folder, paths, options
        self.report = _status(folder)
        self.learner = NnUNetLearner(
            LearnerSettings(
                paths=paths, dataset=DATASET, configuration=options.configuration,
                trainer="nnUNetTrainer", fold="0", state_dir=folder / "state",
                host=HostSettings(device=options.device, num_processes=1),
                planning=Planning(
                    dataset_json=dataset_json, dataset_name=DATASET, seed=SEED,
                    gpu_memory_target_gb=None if options.full else 0.1,
                    planner_options={} if options.full else SMALL,
                ),
            )
        )  # fmt: skip
        plan = self.learner.plan(self.report)
        self.plans_name = str(plan.plans["plans_name"])
        self.learner.prepare(plan.plans, plan.fingerprint, self.report)
        self.tensors = self.learner.initial_weights()
        self.n_parameters = sum(int(value.size) for value in self.tensors.values())
        self.round = 0

    def fedfs(self) -> None:
        """Train a round of one epoch as a site does."""
        task = self._task()
        self.tensors = self.learner.train(task, self.tensors, self.report).tensors
        self.round += 1

    def nnunet(self, timer: Timer) -> Callable[[], None]:
        """Return a function that has nnU-Net train for one epoch."""
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        from fedfs.nnunet.system.environment import set_variables

        own = {**self.paths.variables(), "nnUNet_results": str(self.folder / "nnunet")}
        with set_variables(own), _silent():
            trainer = get_trainer_from_args(
                DATASET,
                self.options.configuration,
                0,
                "nnUNetTrainer",
                self.plans_name,
                device=torch.device(self.options.device),
            )
            trainer.num_epochs = self._task().total_epochs
            trainer.num_iterations_per_epoch = self.options.iterations
            trainer.num_val_iterations_per_epoch = self.options.val_iterations
            trainer.on_train_start()
        timer.attach(trainer)
        # run_training begins and ends a training each time; here it goes on.
        trainer.on_train_start = trainer.on_train_end = lambda: None

        def epoch() -> None:
            trainer.num_epochs = trainer.current_epoch + 1
            with set_variables(own), _silent():
                trainer.run_training()

        return epoch

    def _task(self) -> Any:
        from fedfs.learner import RoundTask

        return RoundTask(
            version=self.round,
            weights_sha256=str(self.round),
            first_epoch=self.round,
            n_epochs=1,
            total_epochs=self.options.repeats + 1,
            iterations_per_epoch=self.options.iterations,
            val_iterations_per_epoch=self.options.val_iterations,
        )


def _place(data: Path | None, folder: Path, target: Path) -> dict[str, Any]:
    if data is None:
        data = folder / "images"
        phantoms.write_dataset(data, n_cases={"north": 8}, seed=SEED)
    dataset_json: dict[str, Any] = json.loads((data / "dataset.json").read_text())
    ending = str(dataset_json["file_ending"])
    cases = sorted(path.name.removesuffix(ending) for path in (data / "labelsTr").iterdir())
    place_dataset(data, target, cases)
    return {**dataset_json, "label_order": list(dataset_json["labels"])}


def _status(folder: Path) -> Callable[[Any], None]:
    """Return what a site's learner reports to: it publishes a status every 15 seconds."""
    from fedfs.exchange.progress import StatusReporter
    from fedfs.exchange.publish import Publisher
    from fedfs.protocol.track_place import TrackPlace
    from fedfs.roles.site.policy.file import NO_FILE
    from fedfs.roles.site.policy.gate import SiteGate
    from fedfs.store import open_store
    from fedfs.trust.signing import SigningKey

    store = open_store(str(folder / "store"), must_exist=False)
    publisher = Publisher(
        store,
        SigningKey.generate(),
        "bench",
        clock=time.time,
        track=TrackPlace("2d-0"),
        gate=SiteGate(NO_FILE, "north", _no_state),
    )
    return StatusReporter(publisher, "north", interval_s=15, clock=time.time).progress


def _no_state() -> Any:
    raise RuntimeError("nothing but statuses is published here")


@contextmanager
def _silent() -> Iterator[None]:
    from fedfs.nnunet.system.output import capture_output

    with capture_output(logging.getLogger("nnunet")):  # as the learner does
        yield


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    bench, now = Bench(folder, options), clock(options.device)
    timers = {"fedfs": Timer(now), "nnunet": Timer(now)}
    blocks = {"fedfs": bench.fedfs, "nnunet": bench.nnunet(timers["nnunet"])}
    for block in blocks.values():  # fills caches, and opens the learner's session
        block()
    timers["fedfs"].attach(bench.learner._rounds.session.trainer)
    began = time.monotonic()
    for pair in range(options.repeats):
        if pair >= 2 and time.monotonic() - began > 60 * options.max_minutes:
            break
        order = ("fedfs", "nnunet") if pair % 2 else ("nnunet", "fedfs")
        for name in order:
            seed(pair)
            timers[name].run(blocks[name])
    bench.learner.close()
    result: dict[str, Any] = {
        "device": options.device,
        "configuration": options.configuration,
        "parameters": bench.n_parameters,
        "iterations": options.iterations,
        "pairs": len(timers["fedfs"].epochs),
        "data": "made up" if options.data is None else options.data.name,
    }
    for what in ("iterations", "own", "epochs"):
        for index, kind in enumerate(("wall", "cpu")):
            of = {
                name: [[1000 * s[index] for s in block] for block in getattr(timer, what)]
                for name, timer in timers.items()
            }
            result[f"{what} {kind}"] = summary(of["fedfs"], of["nnunet"])
    return result


def summary(fedfs: list[list[float]], nnunet: list[list[float]]) -> dict[str, float]:
    """Return medians and least of both in ms, and the ratio of pairs of blocks."""
    ratios = sorted(
        statistics.median(a / b for a, b in zip(*pair, strict=True))
        for pair in zip(fedfs, nnunet, strict=True)
    )
    # The median lies between these ranks with 95 %, however the ratios are distributed.
    middle, half = len(ratios) / 2, 0.98 * math.sqrt(len(ratios))
    low = ratios[max(0, math.floor(middle - half))]
    high = ratios[min(len(ratios) - 1, math.ceil(middle + half))]
    all_of = {
        name: list(itertools.chain(*blocks))
        for name, blocks in (("fedfs", fedfs), ("nnunet", nnunet))
    }
    return {
        **{f"{name}_ms": round(statistics.median(ms), 4) for name, ms in all_of.items()},
        **{f"{name}_least_ms": round(min(ms), 4) for name, ms in all_of.items()},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_low": round(low, 4),
        "ratio_high": round(high, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="nnU-Net raw dataset; by default made-up images")
    parser.add_argument("-c", "--configuration", default="2d")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--iterations", type=int, default=25, help="of a block")
    parser.add_argument("--val-iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=40, help="pairs of blocks")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="fewer pairs then")
    parser.add_argument("--full", action="store_true", help="nnU-Net's own plan")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("nnUNet_n_proc_DA", "0")
    os.environ.setdefault("nnUNet_def_n_proc", "1")
    with tempfile.TemporaryDirectory(prefix="fedfs-trainer-") as folder:
        result = measure(Path(folder), options)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['configuration']} on {result['device']}, {result['parameters'] / 1e6:.2f} million"
        f" parameters; {result['pairs']} pairs of blocks of {result['iterations']} iterations;"
        " median and least in ms"
    )
    print(f"{'':<17}{'fedfs':>20}{'nnU-Net':>20}{'ratio':>9}{'95 %':>17}")
    labels = {"iterations": "iteration", "own": "of it, own", "epochs": "epoch"}
    for what, label in labels.items():
        for kind in ("wall", "cpu"):
            row = result[f"{what} {kind}"]
            print(
                f"{label + ', ' + kind:<17}{row['fedfs_ms']:>10.3f}{row['fedfs_least_ms']:>10.3f}"
                f"{row['nnunet_ms']:>10.3f}{row['nnunet_least_ms']:>10.3f}{row['ratio']:>9.4f}"
                f"   {row['ratio_low']:.4f}-{row['ratio_high']:.4f}"
            )


if __name__ == "__main__":
    sys.exit(main())
