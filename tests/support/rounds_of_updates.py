"""Updates of a round, and their aggregation, for tests of strategies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfs.aggregation.strategies import FedAvg
from fedfs.learner import Array, Tensors
from fedfs.tensors.encodings.base import Delta

Model = dict[str, Array]

TENSORS = {"conv": (2, 2), "norm": (3,)}

# Differences of two of these are exact in float64, so that laws hold to the last bit.
half = st.floats(-1000, 1000, width=16)
seeds = st.integers(0, 2**32 - 1)


def models(elements: st.SearchStrategy[float] = half) -> st.SearchStrategy[Model]:
    return st.fixed_dictionaries(
        {name: hnp.arrays(np.float32, shape, elements=elements) for name, shape in TENSORS.items()}
    )


def updates(
    n_least: int = 1, n_most: int = 6, elements: st.SearchStrategy[float] = half
) -> st.SearchStrategy[dict[str, Model]]:
    """Name of the site -> trained model."""
    return st.lists(models(elements), min_size=n_least, max_size=n_most).map(
        lambda trained: {f"site-{i}": model for i, model in enumerate(trained)}
    )


def some_weights(sites: Collection[str], seed: int) -> dict[str, float]:
    raw = np.random.default_rng(seed).uniform(0.01, 1, len(sites))
    return dict(zip(sites, raw.tolist(), strict=True))


def aggregate(
    strategy: FedAvg,
    base: Tensors,
    trained: Mapping[str, Tensors],
    weights: Mapping[str, float],
    state: Mapping[str, Tensors] | None = None,
    version: int = 1,
) -> tuple[Model, dict[str, Model]]:
    """One aggregation as the aggregator does it: values by name, states by name and slot."""
    one = strategy.begin(weights, version=version)

    def of(name: str) -> tuple[list[str], Iterable[Delta]]:
        have = [site for site in sorted(trained) if name in trained[site]]
        return have, (np.subtract(trained[s][name], base[name], dtype=np.float64) for s in have)

    while one.scanning:
        for name in base:
            one.scan(*of(name))
        one.end_scan()
    done = {
        name: one.combine(name, base[name], *of(name), (state or {}).get(name, {})) for name in base
    }
    return {n: c.value for n, c in done.items()}, {n: dict(c.state) for n, c in done.items()}


def values_of(*arguments: Any, **keywords: Any) -> Model:
    return aggregate(*arguments, **keywords)[0]


def assert_same(first: Tensors, second: Tensors) -> None:
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def assert_close(first: Tensors, second: Tensors, rtol: float = 1e-5, atol: float = 1e-4) -> None:
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=rtol, atol=atol)
