"""What makes FFE depend on its seed when iterations are few, and what does not.

    python bench/stability.py --data DIR --folder OUT --seeds 1,2,3 --only ffe,local,reset

Trains variants of a federation in one process: fedfs's learner at each site, fedfs's strategies
and weights between rounds, no store. One plan and the same initial weights for all variants; the
seed is that of the initial weights and of nnU-Net's random numbers. A quarter of each site's cases
is kept away and predicted without mirroring, slices as a whole. Prints, for each variant, Dice and
HD95 over seeds, and the paired difference to ``--reference``, with a 95 % interval over cases and
the standard deviation over seeds; then ``bench/paper.py``'s criteria. What is in OUT is not trained
again; ``--only`` with nothing in it prints what is there.

Variants that go on from ``ffe``: ``last-K`` (mean of the last K versions), ``ema-B`` (exponential
average of versions, B of the average before), ``component`` (only the largest component of each
class is kept), and ``personal-SHARE-RATE``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import paper

from fedfs.aggregation import intervals, secure_sums
from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.aggregation.strategies import by_name, proximal_mu
from fedfs.exchange.payloads import write_update
from fedfs.learner import PartialTraining, RoundTask, Tensors
from fedfs.simulation.cases import (
    place_dataset,
    raw_dataset_json,
    read_cases,
    read_patients,
    split_cases,
    with_site_names,
)
from fedfs.simulation.demo_effort import PLANNER_OPTIONS, QUICK
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.encodings.randk import n_positions
from fedfs.trust.masks import MaskContext

DATASET = "Dataset001_Stability"
NETS: dict[str, tuple[float, Sequence[str]]] = {
    "small": (0.02, PLANNER_OPTIONS),
    "tiny": (QUICK.gpu_memory_gb, QUICK.planner_options),
}
LAST = (3, 5)
EMA = (0.5, 0.8)


@dataclass(frozen=True)
class Variant:
    """How a federation differs from the default.

    Attributes:
        finer: so many times as many rounds, with as many fewer iterations each.
        strategy, options: of the aggregation.
        is_uniform: sites weigh alike.
        momentum: ``kept`` by each site over rounds, ``reset``, or ``mean`` over sites.
        rate: learning rate that the schedule begins with; None for that of all variants.
        warm_up: share of the rounds in which the learning rate rises.
        alone: no aggregation.
        epochs: into which a round's iterations are divided.
        pooled: all cases in one place.
        is_equal: a round has the iterations of all sites together.
        encoding, encoding_options: of updates; one whose levels can be summed is summed under
            masks, by the functions that site, helper and aggregator use.
        sent: part of all values that updates in ``randk`` carry.
        nudge: initial weights are larger by this share, to see how far small differences grow.
        keeps_norm: normalisation layers stay at each site, as with ``--keep-local norm``.
    """

    finer: float = 1.0
    strategy: str = "FedAvg"
    options: Mapping[str, float] = field(default_factory=dict)
    is_uniform: bool = False
    momentum: str = "kept"
    rate: float | None = None
    warm_up: float = 0.0
    alone: bool = False
    epochs: int = 1
    pooled: bool = False
    is_equal: bool = False
    encoding: str = ""
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    sent: float = 1.0
    nudge: float = 0.0
    keeps_norm: bool = False


VARIANTS: dict[str, Variant] = {
    "ffe": Variant(),
    "local": Variant(alone=True),
    "local-equal": Variant(alone=True, is_equal=True),
    "central-equal": Variant(alone=True, pooled=True, is_equal=True),
    "reset": Variant(momentum="reset"),
    "mean-momentum": Variant(momentum="mean"),
    "uniform": Variant(is_uniform=True),
    "rounds-x2": Variant(finer=2),
    "rounds-x4": Variant(finer=4),
    "rounds-half": Variant(finer=0.5),
    "epochs-5": Variant(epochs=5),
    "rate-third": Variant(rate=3e-3),
    "rate-x3": Variant(rate=3e-2),
    "warm-up": Variant(warm_up=0.2),
    "fedavgm": Variant(strategy="FedAvgM", options={"server_momentum": 0.3}),
    "nesterov": Variant(strategy="Nesterov"),
    "fedprox": Variant(strategy="FedProx", options={"proximal_mu": 0.01}),
    "fedmedian": Variant(strategy="FedMedian"),
    "keep-local": Variant(keeps_norm=True),
    "twin": Variant(nudge=1e-6),
    "secure": Variant(encoding="fixed"),
    "randk-5": Variant(encoding="randk", sent=0.05),
    "randk-20": Variant(encoding="randk", sent=0.2),
    "topk-5": Variant(encoding="topk"),
    "topk-3-2": Variant(
        encoding="topk", encoding_options={"fraction": 0.03, "bits": 2, "decay": 0.95}
    ),
}


def quiet(_: object) -> None:
    pass


class Federation:
    """Sites, test cases and plan; a run trains one variant with one seed.

    Args:
        folder: of everything.
        seed: of initial weights and random numbers.
        given: the command line.
    """

    def __init__(self, folder: Path, seed: int, given: argparse.Namespace) -> None:
        from fedfs.nnunet.nnunet_learner import NnUNetLearner
        from fedfs.nnunet.settings import LearnerSettings, Planning
        from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths

        self.given, self.seed, self.folder = given, seed, folder
        self.dataset_json = raw_dataset_json(given.data)
        if "regions_class_order" in self.dataset_json:
            self.dataset_json["label_order"] = list(self.dataset_json["labels"])
        patients = read_patients(given.data)
        cases = with_site_names(read_cases(given.data), lambda _: None)
        self.splits = split_cases(cases, test_share=0.25, patients=patients)
        pooled = tuple(case for split in self.splits for case in split.training)
        memory_gb, options = NETS[given.net]
        host = HostSettings(device="cpu", num_processes=1)

        def learner(name: str, results: Path, cases: Sequence[str], planning: Any) -> Any:
            base = given.folder / "hosts" / name
            paths = NnUNetPaths(base / "raw", base / "preprocessed", results)
            for path in (paths.raw, paths.preprocessed, paths.results):
                path.mkdir(parents=True, exist_ok=True)
            place_dataset(given.data, paths.raw / DATASET, cases)
            return NnUNetLearner(
                LearnerSettings(
                    paths=paths, dataset=DATASET, configuration="2d", trainer=given.trainer,
                    fold="0", host=host, state_dir=results / "state", planning=planning,
                    checkpoint_interval_s=1e9, plot_interval_s=1e9,
                )
            )  # fmt: skip

        planning = Planning(
            dataset_json=self.dataset_json, dataset_name=DATASET, seed=seed,
            gpu_memory_target_gb=memory_gb,
            planner_options={o.split("=")[0]: float(o.split("=")[1]) for o in options},
        )  # fmt: skip
        place = given.folder / "hosts" / "pooled" / f"results-{seed}"
        planner = learner("pooled", place, pooled, planning)
        self.plan = planner.plan(quiet)
        self.initial = dict(planner.initial_weights())
        self.make = lambda site, cases, results: learner(site, results, cases, None)

    def sites(self, name: str, *, pooled: bool = False) -> dict[str, Any]:
        """Return a learner for each site, or for all cases, ready to train."""
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of a run that was stopped
        training = {split.site: split.training for split in self.splits}
        if pooled:
            training = {"pooled": tuple(case for cases in training.values() for case in cases)}
        out = {}
        for site, cases in training.items():
            out[site] = self.make(site, cases, self.folder / name / site)
            out[site].prepare(self.plan.plans, self.plan.fingerprint, quiet)
        return out

    def task(self, variant: Variant, version: int) -> RoundTask:
        rounds = round(self.given.rounds * variant.finer)
        times = len(self.splits) if variant.is_equal else 1
        iterations = round(times * self.given.iterations / variant.finer / variant.epochs)
        return RoundTask(
            version=version, weights_sha256=str(version), first_epoch=version * variant.epochs,
            n_epochs=variant.epochs, total_epochs=rounds * variant.epochs,
            iterations_per_epoch=iterations, val_iterations_per_epoch=1,
            learning_rate=variant.rate or self.given.learning_rate,
            partial=self.partial(variant),
            proximal_mu=proximal_mu(variant.strategy, variant.options),
        )  # fmt: skip

    def partial(self, variant: Variant) -> PartialTraining | None:
        """Return which values are trained, so that the part of all is what the variant says."""
        if variant.encoding != "randk":
            return None
        sizes = [values.size for values in self.initial.values()]

        def too_many(fraction: float) -> bool:
            return sum(n_positions(n, fraction) for n in sizes) > variant.sent * sum(sizes)

        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if too_many(middle) else (middle, high)
        return PartialTraining({name: name for name in self.initial}, low)

    def run(self, name: str, variant: Variant) -> None:
        """Train, and write the scores of every version and of what follows from them."""
        set_seeds(self.seed)
        began = time.process_time()
        learners = self.sites(name, pooled=variant.pooled)
        weights = {s.site: 1.0 if variant.is_uniform else len(s.training) for s in self.splits}
        rounds = self.task(variant, 0).total_epochs // variant.epochs
        nudge = np.float32(1 + variant.nudge)
        base, state, versions = {n: nudge * v for n, v in self.initial.items()}, {}, []
        model: dict[str, Any] = dict.fromkeys(learners, base)
        residuals: dict[str, dict[str, Any]] = {site: {} for site in learners}
        for version in range(rounds):
            task = self.task(variant, version)
            if variant.warm_up:
                raised = min(1.0, (version + 1) / (variant.warm_up * rounds + 1))
                raised *= task.learning_rate or 1e-2
                for learner in learners.values():
                    with learner._nnunet():
                        learner._begun().open(task).trainer.lr_scheduler.initial_lr = raised
            if variant.momentum != "kept" and version:
                change_momentum([one._rounds.session.trainer for one in learners.values()],
                                variant.momentum, list(weights.values()))  # fmt: skip
            model = {
                site: learner.train(task, model[site], quiet).tensors
                for site, learner in learners.items()
            }
            if not variant.alone:
                trained, counts = model, weights
                if variant.encoding:
                    trained, counts = self.exchange(
                        variant, base, model, weights, residuals, version
                    )
                base, state = aggregate(variant, base, trained, counts, state, version + 1)
                own = {n for n in base if variant.keeps_norm and is_normalisation(n)}
                model = {s: {**base, **{n: model[s][n] for n in own}} for s in learners}
            versions.append(dict(model))
            every = max(1, rounds // 5)
            if version + 1 == rounds or (name == "ffe" and (version + 1) % every == 0):
                label = name if version + 1 == rounds else f"{name}@{(version + 1) / rounds:.1f}"
                self.score(label, learners, model, time.process_time() - began)
        if name == "ffe":
            self.follow(learners, [next(iter(one.values())) for one in versions])
        for learner in learners.values():
            learner.close()

    def exchange(
        self,
        variant: Variant,
        base: Tensors,
        trained: Mapping[str, Tensors],
        weights: Mapping[str, float],
        residuals: dict[str, dict[str, Any]],
        version: int,
    ) -> tuple[dict[str, Tensors], Mapping[str, float]]:
        """Return what the aggregator sees as trained: decoded updates, or their sum."""
        partial = self.partial(variant)
        options = {"fraction": partial.fraction} if partial else variant.encoding_options
        encoding = encodings.by_name(variant.encoding, options)
        folder = self.folder / "exchange"
        folder.mkdir(parents=True, exist_ok=True)
        payloads: dict[str, Path] = {}
        for site in sorted(trained):
            payloads[site], before, left = folder / site, residuals[site], {}
            write_update(
                payloads[site], encoding, trained[site], base, before, keep=left.__setitem__
            )
            residuals[site] = left
        if not encoding.summable:
            return {s: decoded(path, encoding, base) for s, path in payloads.items()}, weights
        counts, parts = secure_sums.coefficients(weights), []
        for site, path in payloads.items():
            seed, masked = os.urandom(32), path.with_suffix(".masked")
            context = MaskContext(study="stability", track="", version=version, site=site)
            secure_sums.mask_file(path, masked, seed, context)
            parts.append(
                secure_sums.MaskPart(
                    site=site, seed=seed, context=context, coefficient=counts[site]
                )
            )
            payloads[site] = masked
        shapes = {name: values.shape for name, values in base.items()}
        levels = secure_sums.level_shapes(encoding, shapes)
        secure_sums.write_mask_sum(folder / "masks", levels, parts)
        secure_sums.write_sum(folder / "sum", payloads, counts, folder / "masks")
        return {"sum": decoded(folder / "sum", encodings.SummedLevels(encoding), base)}, {
            "sum": 1.0
        }

    def follow(self, learners: Mapping[str, Any], versions: Sequence[Tensors]) -> None:
        """Score what can be made of the versions of a federation."""
        for number in LAST:
            mean = mean_of(versions[-number:])
            self.score(f"last-{number}", learners, dict.fromkeys(learners, mean), 0.0)
        for factor in EMA:
            ema = versions[0]
            for one in versions[1:]:
                ema = {n: factor * ema[n] + (1 - factor) * one[n] for n in one}
            self.score(f"ema-{factor}", learners, dict.fromkeys(learners, ema), 0.0)
        last = dict.fromkeys(learners, versions[-1])
        self.score("component", learners, last, 0.0, largest=True)
        for text in self.given.personal.split(",") if self.given.personal else ():
            share, rate = map(float, text.split(":"))
            name = f"personal-{share:g}-{rate:g}"
            set_seeds(self.seed)
            began = time.process_time()
            tuners = self.sites(name)
            epochs = max(1, round(share * self.given.rounds))
            task = replace(self.task(Variant(rate=rate), 0), n_epochs=epochs, total_epochs=epochs)
            tuned = {s: one.train(task, versions[-1], quiet).tensors for s, one in tuners.items()}
            self.score(name, tuners, tuned, time.process_time() - began)
            for tuner in tuners.values():
                tuner.close()

    def score(
        self,
        name: str,
        learners: Mapping[str, Any],
        models: Mapping[str, Tensors],
        seconds: float,
        *,
        largest: bool = False,
    ) -> None:
        """Predict each site's test cases with its model, and write a line."""
        dice: dict[str, float] = {}
        distance: dict[str, float] = {}
        for split in self.splits:
            site = split.site if split.site in models else "pooled"
            predict = Network(learners[site], models[site], self.dataset_json)
            for case in split.test:
                found = predict.score(self.given.data, case, largest=largest)
                dice[f"{split.site}/{case}"], distance[f"{split.site}/{case}"] = found
        line = {
            "variant": name, "seed": self.seed, "dice": dice, "hd95": distance,
            "cpu_s": round(seconds, 1),
        }  # fmt: skip
        with (self.given.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name} seed {self.seed}: Dice {fmean(dice.values()):.4f}, {seconds:.0f} s of CPU",
              file=sys.stderr, flush=True)  # fmt: skip


_preprocessed: dict[str, Any] = {}


class Network:
    """A network with weights, which predicts whole slices."""

    def __init__(self, learner: Any, tensors: Tensors, dataset_json: Mapping[str, Any]) -> None:
        session = learner._rounds.session
        session.load(tensors)
        self.trainer, self.dataset_json = session.trainer, dataset_json

    def score(self, data: Path, case: str, *, largest: bool) -> tuple[float, float]:
        """Return mean Dice over classes, and mean HD95 where it is defined."""
        import torch

        from fedfs.nnunet.score.distances import hd95_mm

        trainer = self.trainer
        ending, channels = self.dataset_json["file_ending"], self.dataset_json["channel_names"]
        images = [str(data / "imagesTr" / f"{case}_{i:04d}{ending}") for i in range(len(channels))]
        configuration = trainer.configuration_manager
        preprocessor = configuration.preprocessor_class(verbose=False)
        label = str(data / "labelsTr" / f"{case}{ending}")
        if case not in _preprocessed:
            _preprocessed[case] = preprocessor.run_case(
                images, label, trainer.plans_manager, configuration, trainer.dataset_json
            )
        image_CZYX, reference, properties = _preprocessed[case]  # noqa: N806  axes
        stride = np.prod(np.array(configuration.pool_op_kernel_sizes), axis=0)
        size = np.array(image_CZYX.shape[2:])
        pad = [int(n) for n in -(-size // stride) * stride - size]
        slices = torch.as_tensor(np.asarray(image_CZYX)).float().transpose(0, 1)
        slices = torch.nn.functional.pad(slices, (0, pad[1], 0, pad[0]))
        trainer.set_deep_supervision_enabled(False)
        trainer.network.eval()
        with torch.no_grad():
            logits = trainer.network(slices)[..., : size[0], : size[1]]
        trainer.network.train()
        trainer.set_deep_supervision_enabled(True)
        labels = trainer.label_manager
        if labels.has_regions:
            masks = [(logits[:, i] > 0).numpy() for i in range(logits.shape[1])]
        else:
            masks = [(logits.argmax(1) == value).numpy() for value in labels.foreground_labels]
        classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        reference_ZYX, spacing = np.asarray(reference)[0], configuration.spacing  # noqa: N806  axes
        between = properties["spacing"][trainer.plans_manager.transpose_forward[0]]
        dice, distances = [], []
        for mask, values in zip(masks, classes, strict=True):
            one, other = (
                largest_component(mask) if largest else mask,
                np.isin(reference_ZYX, values),
            )
            if one.any() or other.any():
                dice.append(2 * float((one & other).sum()) / float(one.sum() + other.sum()))
            found = hd95_mm(other, one, [between, *spacing])
            if found is not None:
                distances.append(found)
        return fmean(dice), fmean(distances) if distances else float("nan")


def largest_component(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    return labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()) if n > 1 else mask


def spare_time() -> None:
    """Leave out what costs networks this small more than half of their time.

    nnU-Net's loader limits thread pools at every batch. Sites train in turn, and the augmentation
    workers of those that wait would fill their queues meanwhile.
    """
    os.environ.setdefault("nnUNet_n_proc_DA", "0")
    from contextlib import nullcontext

    from nnunetv2.training.dataloading import data_loader

    data_loader.threadpool_limits = lambda **_: nullcontext()


def set_seeds(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  nnU-Net draws from the global stream
    torch.manual_seed(seed)


def change_momentum(trainers: Sequence[Any], how: str, weights: Sequence[float]) -> None:
    """Forget the momentum of all sites, or give all of them its weighted mean."""
    if how == "reset":
        for trainer in trainers:
            trainer.optimizer.state.clear()
        return
    total = sum(weights)
    parameters = [[p for g in t.optimizer.param_groups for p in g["params"]] for t in trainers]
    for same in zip(*parameters, strict=True):
        states = [t.optimizer.state[p] for t, p in zip(trainers, same, strict=True)]
        if any(state.get("momentum_buffer") is None for state in states):
            continue
        mean = sum(s["momentum_buffer"] * (w / total) for s, w in zip(states, weights, strict=True))
        for state in states:
            state["momentum_buffer"] = mean.clone()


def aggregate(
    variant: Variant,
    base: Tensors,
    trained: Mapping[str, Tensors],
    weights: Mapping[str, float],
    state: Mapping[str, Any],
    version: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the next version and the strategy's memory, as the aggregator makes them."""
    one = by_name(variant.strategy, variant.options).begin(weights, version=version)
    names = sorted(trained)

    def deltas(name: str) -> list[Any]:
        return [np.subtract(trained[s][name], base[name], dtype=np.float64) for s in names]

    while one.scanning:
        for name in base:
            one.scan(names, deltas(name))
        one.end_scan()
    done = {n: one.combine(n, base[n], names, deltas(n), state.get(n, {})) for n in base}
    return {n: c.value for n, c in done.items()}, {n: dict(c.state) for n, c in done.items()}


def decoded(path: Path, encoding: encodings.Decoder, base: Tensors) -> Tensors:
    with TensorFile(path) as file:
        return {n: base[n] + encoding.decode(n, file, base[n]) for n in base}


def mean_of(versions: Sequence[Tensors]) -> dict[str, Any]:
    return {
        name: np.mean([one[name] for one in versions], axis=0, dtype=np.float64).astype(np.float32)
        for name in versions[0]
    }


def report(folder: Path, reference: str) -> None:
    """Print each variant beside the reference, over the seeds that both have."""
    found: dict[str, dict[int, Any]] = {}
    for text in (folder / "results.jsonl").read_text().splitlines():
        line = json.loads(text)
        found.setdefault(line["variant"], {})[line["seed"]] = line
    for name, lines in found.items():
        seeds = sorted(set(lines) & set(found.get(reference, lines)))
        if not seeds:
            continue
        means = [fmean(lines[seed]["dice"].values()) for seed in seeds]
        sd = f" ± {stdev(means):.3f}" if len(means) > 1 else ""
        distance = float(np.nanmean([v for s in seeds for v in lines[s]["hd95"].values()]))
        text = f"{name:<22} {len(seeds)} seeds  {fmean(means):.3f}{sd}  HD95 {distance:5.1f}"
        if name != reference and reference in found:
            other = found[reference]
            of = [
                {c: fmean([run[s]["dice"][c] for s in seeds]) for c in lines[seeds[0]]["dice"]}
                for run in (lines, other)
            ]
            paired = intervals.paired_difference(of[0], of[1], {}, 1)
            by_seed = [
                m - fmean(other[s]["dice"].values()) for m, s in zip(means, seeds, strict=True)
            ]
            if paired is not None:
                text += (
                    f"  {paired.mean:+.4f} ({paired.low:+.4f} to {paired.high:+.4f}), n={paired.n}"
                )
                text += f"; by seed {' '.join(f'{value:+.3f}' for value in by_seed)}"
        print(text)
    for line in paper.criteria(arms(found)):
        print(line)


def arms(found: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return arm -> site, and ``all`` -> for each seed that all have, case -> Dice.

    Of several personal models it is the first.
    """
    chosen: dict[str, Mapping[int, Any]] = {}
    for name, lines in found.items():
        arm = "personal" if name.startswith("personal-") else name
        if arm in (*paper.FEDERATED, "local", paper.EQUAL_LOCAL, paper.EQUAL_CENTRAL):
            chosen.setdefault(arm, lines)
    seeds = sorted(set.intersection(*(set(lines) for lines in chosen.values()))) if chosen else []
    out: dict[str, dict[str, list[dict[str, float]]]] = {}
    for arm, lines in chosen.items() if seeds else ():
        for seed in seeds:
            by_site: dict[str, dict[str, float]] = {"all": lines[seed]["dice"]}
            for case, dice in lines[seed]["dice"].items():
                by_site.setdefault(case.split("/")[0], {})[case] = dice
            for site, cases in by_site.items():
                out.setdefault(arm, {}).setdefault(site, []).append(cases)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--reference", default="ffe")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--net", choices=NETS, default="tiny")
    parser.add_argument("--trainer", default="nnUNetTrainer")
    parser.add_argument("--learning-rate", type=float, help="of all variants; default: nnU-Net's")
    parser.add_argument("--personal", default="", help="SHARE:RATE, ...: of personal models")
    given = parser.parse_args()
    given.data, given.folder = given.data.resolve(), given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = given.folder / "results.jsonl"
    results.touch()
    done = {(v["variant"], v["seed"]) for v in map(json.loads, results.read_text().splitlines())}
    spare_time()
    for seed in (int(text) for text in given.seeds.split(",")):
        names = [n for n in given.only.split(",") if n and (n, seed) not in done]
        if names:
            federation = Federation(given.folder / f"seed-{seed}", seed, given)
            for name in names:
                federation.run(name, VARIANTS[name])
    report(given.folder, given.reference)


if __name__ == "__main__":
    main()
