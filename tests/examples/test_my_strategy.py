"""A strategy that fedfs does not have: installed, chosen by name, checked against its formula."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedfs.aggregation.strategies import FedAvg, NormClipping, by_name
from fedfs.errors import UserError
from fedfs.exchange.read import open_study
from fedfs.store import open_store
from support.federation import DATASET_JSON, INITIAL, Federation
from support.rounds_of_updates import (
    assert_close,
    assert_same,
    models,
    seeds,
    some_weights,
    updates,
    values_of,
)

SOURCE = Path(__file__).parents[2] / "examples" / "my-strategy"
MODULE = "fedfs_geometric_median"
TARGETS = {"east": -30.0, "north": 1.0, "south": 2.0, "west": 1.5}


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """As on a host where the package is installed."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Where pip has installed the example."""
    target = tmp_path_factory.mktemp("package")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", str(target), str(SOURCE)],
        check=True, timeout=120,
    )  # fmt: skip
    return target


@pytest.fixture(scope="module")
def strategy(package) -> FedAvg:
    with importable(package):
        return by_name("geometricmedian")


def fedfs(*words: str, home: Path, package: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FEDFS_HOME": str(home), "PYTHONPATH": str(package or "")}
    command = [sys.executable, "-m", "fedfs", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_study_is_begun_with_it_where_it_is_installed(tmp_path, package):
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))
    words = (
        "init", str(tmp_path / "store"), "--name", "organ", "--strategy", "GeometricMedian",
        "--dataset-json", str(tmp_path / "dataset.json"), "--strategy-option", "smoothing=0.001",
        "--strategy-option", "clip_norm=5",
    )  # fmt: skip
    without = fedfs(*words, home=tmp_path / "home")
    assert (without.returncode, "Unknown strategy" in without.stderr) == (2, True), without.stderr
    begun = fedfs(*words, home=tmp_path / "home", package=package)
    assert begun.returncode == 0, begun.stderr
    charter = open_study(open_store(str(tmp_path / "store"))).state.charter
    assert charter.strategy.options == {"smoothing": 0.001, "clip_norm": 5}
    assert charter.nnunet.versions["fedfs-geometric-median"] == "0.1.0"


def test_only_coordinator_and_aggregator_need_it_and_whoever_verifies(tmp_path, package):
    store = str(tmp_path / "store")
    with importable(package):
        federation = Federation(
            tmp_path / "hosts",
            targets=TARGETS,
            store=open_store(store, must_exist=False),
            strategy="GeometricMedian",
        ).start()
    finished = 0
    while not finished:
        sites = [federation.run_process(site).finished for site in TARGETS]
        with importable(package):
            federation.run_process("aggregator")
        finished = all(sites)
    trained = {
        site: {name: v + (np.float32(target) - v) / 2 for name, v in INITIAL.items()}
        for site, target in TARGETS.items()
    }
    weights = {site: 10.0 * (i + 1) for i, site in enumerate(sorted(TARGETS))}
    expected = median(INITIAL, trained, weights)
    assert_close(federation.weights(1), expected, rtol=1e-4, atol=1e-5)
    home = federation.home("coordinator")
    verified = fedfs("verify", store, home=home, package=package)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.count("bit by bit the same") == 3
    for command in (("verify", store), ("aggregate", store, "--once")):
        without = fedfs(*command, home=home)
        assert without.returncode == 3, without.stdout
        assert "Unknown strategy 'GeometricMedian'" in without.stderr
        assert "install the package that has the strategy" in without.stderr
    assert fedfs("verify", store, "--no-recompute", home=home).returncode == 0


def flat(model):
    return np.concatenate([model[name].ravel() for name in sorted(model)]).astype(np.float64)


def median(base, trained, weights, n_steps=2000):
    """The geometric median by Weiszfeld's algorithm on the whole vectors."""
    names = sorted(trained)
    points = np.stack([flat(trained[name]) for name in names])
    given = np.array([weights[name] for name in names]) / sum(weights.values())
    point = given @ points
    for _ in range(n_steps):
        raw = given / np.maximum(np.linalg.norm(points - point, axis=1), 1e-6)
        point = raw / raw.sum() @ points
    out, start = {}, 0
    for name in sorted(base):
        out[name] = point[start : start + base[name].size].reshape(base[name].shape)
        start += base[name].size
    return out


def cost(model, trained, weights):
    """The weighted sum of distances, which the median makes least."""
    total = sum(weights.values())
    distances = {name: np.linalg.norm(flat(model) - flat(one)) for name, one in trained.items()}
    return sum(weights[name] / total * distance for name, distance in distances.items())


def test_options_are_checked_like_those_of_fedfs(package):
    with importable(package):
        clipped = by_name("GEOMETRICMEDIAN", {"clip_norm": 2})
        assert isinstance(clipped, NormClipping)
        assert type(clipped.inner).__name__ == "GeometricMedian"
        for options in ({"smoothing": 0}, {"speed": 1}):
            with pytest.raises(UserError):
                by_name("GeometricMedian", options)


@given(base=models(), trained=updates(2), seed=seeds)
def test_no_mean_of_updates_is_nearer_to_all(strategy, base, trained, seed):
    weights = some_weights(trained, seed)
    found = cost(values_of(strategy, base, trained, weights), trained, weights)
    assert found <= cost(median(base, trained, weights, 200), trained, weights) * (1 + 1e-4) + 1e-3
    assert found <= cost(values_of(FedAvg(), base, trained, weights), trained, weights) + 1e-3


@given(
    base=models(), trained=updates(3, 7), seed=seeds, attack=models(st.floats(-1e4, 1e4, width=32))
)
def test_fewer_than_half_do_not_carry_it_away(strategy, base, trained, seed, attack):
    """The bound of Lopuhaa and Rousseeuw (1991): 2 n / (n - 2 f) times the spread of the honest."""
    n, f = len(trained), strategy.tolerates(len(trained))
    attackers = sorted(trained)[:f]
    honest = {name: model for name, model in trained.items() if name not in attackers}
    result = values_of(
        strategy, base, {**honest, **dict.fromkeys(attackers, attack)}, dict.fromkeys(trained, 1.0)
    )
    centre = np.mean([flat(model) for model in honest.values()], axis=0)
    spread = max(np.linalg.norm(flat(model) - centre) for model in honest.values())
    assert np.linalg.norm(flat(result) - centre) <= 2 * (n - f) / (n - 2 * f) * spread + 1e-2


@given(base=models(), trained=updates(2), seed=seeds, exponent=st.integers(-20, 20))
def test_order_and_scale_of_weights_change_no_bit(strategy, base, trained, seed, exponent):
    weights = some_weights(trained, seed)
    first = values_of(strategy, base, trained, weights)
    again = values_of(
        strategy,
        base,
        dict(reversed(trained.items())),
        {name: weights[name] * 2.0**exponent for name in reversed(weights)},
    )
    assert_same(first, again)


@given(base=models(), trained=updates(2), seed=seeds)
def test_an_update_of_weight_zero_counts_for_nothing(strategy, base, trained, seed):
    weights = some_weights(trained, seed)
    first = values_of(strategy, base, trained, {**weights, "site-0": 0.0})
    without = {name: model for name, model in trained.items() if name != "site-0"}
    del weights["site-0"]
    assert_same(first, values_of(strategy, base, without, weights))


@given(base=models(), model=models(), n=st.integers(1, 6), seed=seeds)
def test_equal_updates_are_a_fixed_point(strategy, base, model, n, seed):
    trained = {f"site-{i}": model for i in range(n)}
    result = values_of(strategy, base, trained, some_weights(trained, seed))
    if n == 1:
        assert_same(result, model)
    assert_close(result, model, rtol=2.0**-22, atol=1e-9)


@given(base=models(), trained=updates(2), seed=seeds)
def test_a_tensor_that_one_site_lacks_is_combined_over_the_others(strategy, base, trained, seed):
    partial = {name: dict(model) for name, model in trained.items()}
    lacking = partial["site-0"].pop("norm")
    assume(not np.array_equal(lacking, base["norm"]))
    weights = some_weights(trained, seed)
    result = values_of(strategy, base, partial, weights)
    rest = np.stack([model["norm"] for name, model in trained.items() if name != "site-0"])
    slack = 1e-3 * (1 + np.abs(rest).max())
    assert (result["norm"] >= rest.min(axis=0) - slack).all()
    assert (result["norm"] <= rest.max(axis=0) + slack).all()
