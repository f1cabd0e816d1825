"""Learning that costs nothing: arithmetic in place of nnU-Net, for forecasts and tests."""

# ruff: noqa: ARG002  a fake has no use for most of what it is given

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation import fingerprints
from fedfs.learner import (
    Array,
    CaseGeometry,
    ClassScore,
    EvaluationResult,
    GivenNetwork,
    OwnPlan,
    Progress,
    SiteFingerprint,
    TrainResult,
)
from fedfs.nnunet.plan.plans import PlanResult
from fedfs.protocol import codec
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.tensors.encodings.randk import is_sent

DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
}
INITIAL: dict[str, Array] = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / np.float32(7),
    "b.bias": np.full(4, -1, dtype=np.float32),
}
WITH_NORM: dict[str, Array] = {
    **INITIAL,
    "c.norm.bias": np.zeros(3, dtype=np.float32),
    "c.norm.weight": np.ones(3, dtype=np.float32),
}
N_VALIDATED = 10
"""Validation cases of each site."""


class FakeLearner:
    """Moves every weight half way to the site's own target; counts what it is asked to do."""

    def __init__(
        self, target: float, n_cases: int = 10, network: Mapping[str, Any] | None = None
    ) -> None:
        self.network = network_of(network or {})
        self.seen: dict[int, dict[str, Any]] = {}
        self.kept: dict[str, np.ndarray] = {}
        self.scored: list[str] = []
        self.tasks: list[Any] = []
        self.target = np.float32(target)
        self.n_cases = n_cases
        self.calls: list[tuple[str, int]] = []
        self.closed = False

    def dataset_facts(self) -> Mapping[str, Any]:
        """See :class:`~fedfs.learner.Learner`."""
        return {**DATASET_JSON, "n_cases": self.n_cases, "regions_class_order": None}

    def patients(self) -> Mapping[str, str]:
        """See :class:`~fedfs.learner.Learner`."""
        return {"case-0": "patient-a", "case-1": "patient-a"}

    def versions(self) -> Mapping[str, str]:
        """See :class:`~fedfs.learner.Learner`."""
        return {"nnunetv2": "0"}

    def fingerprint(self, on_progress: Any) -> SiteFingerprint:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("fingerprint", -1))
        values = np.linspace(float(self.target), float(self.target) + 10, 50)
        channel = fingerprints.mix_cases([fingerprints.sketch_case(values)] * self.n_cases)
        case = CaseGeometry((1.0, 1.0, 1.0), (20, 20, 20), 1.0)
        return SiteFingerprint(self.n_cases, (channel,), (case,) * self.n_cases)

    def plan(self, on_progress: Any, *, is_published: bool = False) -> OwnPlan:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("plan", -1))
        shapes = {name: array.shape for name, array in self.network.items()}
        configuration = {"tensors": {name: list(shape) for name, shape in shapes.items()}}
        intensities = {"0": {"min": -7.0, "max": 3071.0, "mean": 100.0}}
        plans = {
            "plans_name": "own",
            "foreground_intensity_properties_per_channel": intensities,
            **configuration,
        }
        sha256 = hashlib.sha256(codec.dumps(plans)).hexdigest()
        return OwnPlan(plans, {}, configuration, shapes, self.n_cases, sha256)

    def initial_weights(self) -> Any:
        """See :class:`~fedfs.learner.Learner`."""
        return self.network

    def prepare(self, plans: Any, fingerprint: Any, on_progress: Any) -> None:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("prepare", -1))

    def evaluate(self, task: Any, tensors: Any, on_progress: Any) -> EvaluationResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("evaluate", task.version))
        return self._score(tensors)

    def train(self, task: Any, tensors: Any, on_progress: Any) -> TrainResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("train", task.version))
        self.tasks.append(task)
        self.seen[task.version] = dict(tensors)
        on_progress(Progress("train", 1, 2, "iterations", task.first_epoch, {"loss": 0.5}))
        trained = {
            name: value if name in task.frozen else value + (self.target - value) / 2
            for name, value in tensors.items()
        }
        for own, name in task.partial.names.items() if task.partial else ():
            moves = is_sent(name, tensors[own], task.partial.fraction)
            trained[own] = np.where(moves, trained[own], tensors[own])
        iterations = task.n_epochs * task.iterations_per_epoch
        return TrainResult(
            trained, self.n_cases, task.n_epochs, iterations, {"train_loss": 0.1}, {}
        )

    def finish(self, task: Any, tensors: Any, on_progress: Any) -> EvaluationResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.calls.append(("finish", task.version))
        self.kept = dict(tensors)
        return with_cases(self._score(tensors))

    def score(self, plans: Any, tensors: Path, on_progress: Any) -> EvaluationResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.scored.append(plans["dataset_name"])
        with TensorFile(tensors) as file:
            file.check_against({n: tuple(s) for n, s in plans["tensors"].items()})
            return with_cases(self._score(dict(file)))

    def score_ensemble(self, members: Mapping[str, Path], on_progress: Any) -> EvaluationResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.scored.append("+".join(members))
        return with_cases(self._score_mean(list(members.values())))

    def score_given(self, network: GivenNetwork, on_progress: Any) -> EvaluationResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.scored.append(network.name)
        shapes = {name: tuple(shape) for name, shape in network.plans["tensors"].items()}
        for path in network.folds.values():
            with TensorFile(path) as file:
                file.check_against(shapes)
        result = self._score_mean(list(network.folds.values()))
        return with_cases(dataclasses.replace(result, n_cases=self.n_cases))

    def _score_mean(self, paths: Sequence[Path]) -> EvaluationResult:
        parts = []
        for path in paths:
            with TensorFile(path) as file:
                parts.append(dict(file))
        return self._score({name: np.mean([p[name] for p in parts], axis=0) for name in parts[0]})

    def close(self) -> None:
        """See :class:`~fedfs.learner.Learner`."""
        self.closed = True

    def _score(self, tensors: Any) -> EvaluationResult:
        error = float(np.mean([np.mean(np.abs(value - self.target)) for value in tensors.values()]))
        dice = ClassScore(1 / (1 + error), 1, 1, 1)
        return EvaluationResult(N_VALIDATED, {"organ": dice}, error, 0.0)


def with_cases(result: EvaluationResult) -> EvaluationResult:
    """Return a result with scores of its cases around its mean Dice."""
    mean = result.mean_dice
    if mean is None:
        return result
    rng = np.random.default_rng(int(1e6 * mean))
    spread = np.linspace(-1, 1, N_VALIDATED) + rng.normal(scale=0.1, size=N_VALIDATED)
    dice = [float(d) for d in np.clip(1 - (1 - mean) * (1 + spread / 3), 0, 1)]
    by_case = {
        f"case-{i}": {"organ": {"dice": d, "nsd": d**2, "hd95_mm": 10 * (1 - d)}}
        for i, d in enumerate(dice)
    }
    return dataclasses.replace(result, by_case=by_case, nsd_tolerance_mm=1.0)


def network_of(shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values that follow from name and shape; in another network of equal name, other ones."""
    out = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(sum(f"{name}{sorted(shapes)}".encode()))
        out[name] = rng.normal(size=tuple(shape)).astype(np.float32)
    return out


class FakePlanner:
    """Plans nothing, but for the names of configurations.

    Args:
        initial: the initial weights; None for :data:`INITIAL`, with normalisation layers where
            sites keep those.
    """

    configurations: tuple[str, ...] = ()

    def __init__(self, initial: Mapping[str, Array] | None = None) -> None:
        self._initial = initial

    def plan(self, charter: Any, fingerprint: Mapping[str, Any], n_cases: int) -> PlanResult:
        """See :class:`~fedfs.roles.aggregator.planning.Planner`."""
        plans = {
            "plans_name": charter.nnunet.plans_name,
            "configurations": {name: {} for name in self.configurations},
        }
        return PlanResult(plans=plans, dataset_json={**DATASET_JSON}, versions={})

    def initial_weights(self, charter: Any, plan: Any, path: Path, *, pretrained: Any) -> None:
        """See :class:`~fedfs.roles.aggregator.planning.Planner`."""
        usual = WITH_NORM if charter.keep_local else INITIAL
        write_safetensors(path, usual if self._initial is None else self._initial)

    def network_weights(
        self, charter: Any, configuration: Any, path: Path, *, pretrained: Any, alignment: Any
    ) -> None:
        """See :class:`~fedfs.roles.aggregator.planning.Planner`."""
        write_safetensors(path, network_of(configuration["tensors"]))
