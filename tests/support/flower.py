"""Three rounds of five sites, and the numbers that Flower's own strategies make of them.

Run as a script where flwr is installed, which needs nothing of fedfs, it writes what it gives to
``tests/golden/flower.json``::

    python -m venv flower
    flower/bin/pip install flwr
    flower/bin/python tests/support/flower.py

``tests/unit/aggregation/test_strategies.py`` compares the strategies of fedfs with that file.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating[Any]]
Model = dict[str, Values]

GOLDEN = Path(__file__).parents[1] / "golden" / "flower.json"
SITES = {"east": 24.0, "north": 16.0, "south": 10.0, "west": 31.0, "zenith": 5.0}
SHAPES = {"conv.weight": (2, 3), "norm.bias": (2,)}
N_VALUES, N_ROUNDS = 8, 3

CASES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "FedAvg": ("FedAvg", {}),
    "FedAvgM": ("FedAvgM", {"server_learning_rate": 0.5, "server_momentum": 0.6}),
    "FedAvgM without momentum": (
        "FedAvgM",
        {"server_learning_rate": 0.7, "server_momentum": 0.0},
    ),
    "FedProx": ("FedProx", {"proximal_mu": 0.1}),
    "FedAdam": ("FedAdam", {"eta": 0.1}),
    "FedAdam, all options": ("FedAdam", {"eta": 0.05, "beta_1": 0.5, "beta_2": 0.9, "tau": 0.01}),
    "FedYogi": ("FedYogi", {"eta": 0.01}),
    "FedYogi, all options": ("FedYogi", {"eta": 0.05, "beta_1": 0.5, "beta_2": 0.9, "tau": 0.01}),
    "FedAdagrad": ("FedAdagrad", {"eta": 0.1}),
    "FedAdagrad, all options": ("FedAdagrad", {"eta": 0.02, "tau": 0.01}),
    "FedTrimmedAvg": ("FedTrimmedAvg", {}),
    "FedTrimmedAvg, two cut off": ("FedTrimmedAvg", {"beta": 0.4}),
    "FedMedian": ("FedMedian", {}),
    "Krum": ("Krum", {"num_malicious_nodes": 1}),
    "MultiKrum": ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}),
    "MultiKrum of two": ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 2}),
}
"""A name -> a strategy and its options."""


def spread(*numbers: int) -> float:
    """Return a number from -0.5 to 0.5 that follows from ``numbers`` on every host."""
    digest = hashlib.sha256(bytes(numbers)).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 - 0.5


def moves(version: int) -> dict[str, list[float]]:
    """Return site -> what its training adds to the 8 values: five sites of different minds."""
    return {
        site: [spread(version, s, k) + 0.3 * spread(k) for k in range(N_VALUES)]
        for s, site in enumerate(SITES)
    }


def tensors(values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Model:
    """Return the 8 values as the two tensors of a model."""
    flat: Values = np.asarray(values, dtype)
    return {"conv.weight": flat[:6].reshape(2, 3), "norm.bias": flat[6:]}


def flatten(model: Mapping[str, Values]) -> Values:
    """Return the 8 values of a model."""
    return np.concatenate([model[name].ravel() for name in SHAPES])


def by_flower(name: str, options: Mapping[str, float]) -> Values:
    """Return the values after the rounds, by Flower's own strategy in float64."""
    theirs, app = import_module("flwr.serverapp.strategy"), import_module("flwr.app")

    def record(model: Model) -> Any:
        return app.ArrayRecord({key: app.Array(value) for key, value in model.items()})

    def reply(model: Model, n_cases: float) -> SimpleNamespace:
        metrics = app.MetricRecord({"num-examples": n_cases})
        content = app.RecordDict({"arrays": record(model), "metrics": metrics})
        return SimpleNamespace(content=content, has_error=lambda: False)  # a Message needs a server

    strategy = getattr(theirs, name)(fraction_train=0.0, **options)  # asks no client itself
    model = tensors([0] * N_VALUES, np.float64)
    for version in range(1, N_ROUNDS + 1):
        strategy.configure_train(version, record(model), app.ConfigRecord(), None)
        replies = [
            reply(tensors(flatten(model) + np.asarray(move), np.float64), SITES[site])
            for site, move in moves(version).items()
        ]
        arrays, _ = strategy.aggregate_train(version, replies)
        model = {key: arrays[key].numpy() for key in SHAPES}
    return flatten(model)


def main() -> None:
    """Write the golden file."""
    made = {
        case: [float(f"{value:.9g}") for value in by_flower(name, options)]
        for case, (name, options) in CASES.items()
    }
    content = {"flwr": metadata.version("flwr"), "values": made}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
