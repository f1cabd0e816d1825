"""Strategies and encodings as a study uses them: chosen in the charter, continued by any host."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from fedfs.aggregation.strategies import STRATEGIES
from fedfs.errors import UserError
from fedfs.protocol import layout
from fedfs.tensors.canonical import weights_sha256
from fedfs.tensors.encodings import ENCODINGS
from support.dying_store import calls_of, kills, run_with_a_kill
from support.federation import INITIAL, Federation

SITES = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 0.5, "york": 1.5}


def models(federation: Federation) -> dict[int, str]:
    return {v: m.weights_sha256 for v, m in federation.observe().state.models.items()}


@pytest.mark.parametrize("name", sorted(cls.__name__ for cls in STRATEGIES.values()))
def test_every_strategy_runs_a_study_and_keeps_its_memory_on_the_store(tmp_path, name):
    federation = Federation(tmp_path, targets=SITES, strategy=name).start()
    federation.run()
    state = federation.observe().state
    assert sorted(state.models) == [0, 1, 2, 3]
    has_memory = bool(STRATEGIES[name.lower()]().slots)
    assert (state.rounds[3].state is not None) == has_memory
    assert state.rounds[0].state is None


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam", "Nesterov"])
def test_an_aggregator_on_another_host_continues_with_the_same_bits(tmp_path, name):
    """The memory of the strategy is part of the published version."""
    options = {"FedAvgM": {"server_momentum": 0.9}}.get(name, {})
    whole = Federation(tmp_path / "whole", strategy=name, strategy_options=options).start()
    whole.run()
    parts = Federation(tmp_path / "parts", strategy=name, strategy_options=options).start()
    hosts = (parts.make_aggregator(work=f"host-{i}") for i in itertools.count())
    for _ in range(20):
        parts.processes["aggregator"] = next(hosts)
        finished = [parts.run_process(n).finished for n in ("aggregator", *parts.targets)]
        if all(finished):
            break
    assert models(parts) == models(whole)


def test_a_strategy_with_momentum_differs_from_plain_averaging(tmp_path):
    plain = Federation(tmp_path / "plain").start()
    momentum = Federation(
        tmp_path / "momentum", strategy="FedAvgM", strategy_options={"server_momentum": 0.9}
    ).start()
    for federation in (plain, momentum):
        federation.run()
    assert models(plain)[1] == models(momentum)[1]  # nothing to remember yet
    assert models(plain)[2] != models(momentum)[2]


def test_the_norm_of_updates_can_be_clipped(tmp_path):
    federation = Federation(tmp_path, strategy_options={"clip_norm": 0.01}).start()
    federation.run()
    after = federation.weights(1)
    moved = sum(float(np.sum((after[name] - INITIAL[name]) ** 2)) for name in INITIAL) ** 0.5
    assert 0 < moved <= 0.01 * (1 + 1e-6)


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_every_encoding_runs_a_study(tmp_path, name):
    federation = Federation(tmp_path, encoding=name, rounds=6).start()
    federation.run()
    exact = Federation(tmp_path / "exact", rounds=6).start()
    exact.run()
    last, wanted = federation.weights(6), exact.weights(6)
    error = max(float(np.max(np.abs(last[n] - wanted[n]))) for n in wanted)
    most = {"fp32": 1e-9, "fp16": 1e-2, "bf16": 1e-2, "int8": 3e-2}
    assert error < most.get(name, 5)  # the others leave much for later rounds


def test_a_site_killed_around_a_lossy_update_sends_the_same_bytes(tmp_path):
    """What the encoding did not carry is kept at the site, and counts once."""
    options = {"targets": {"north": 2.0}, "encoding": "int8"}
    whole = Federation(tmp_path / "whole", **options).start()
    calls = calls_of(whole, "north", partial(whole.run, seed=1))
    wanted = models(whole)
    for k, after in kills(calls, few=True):
        federation = Federation(tmp_path / f"{k}-{after}", **options).start()
        assert run_with_a_kill(federation, partial(federation.run, seed=1), "north", k, after=after)
        assert models(federation) == wanted, f"killed at call {k}, {calls[k - 1]}"


def test_residuals_of_old_versions_are_deleted(tmp_path):
    federation = Federation(tmp_path, encoding="topk", rounds=5).start()
    federation.run()
    files = sorted(p.name for p in (federation.home("north") / "work").glob("kept-*"))
    assert files == ["kept-00003.safetensors", "kept-00004.safetensors"]


def test_a_lossy_update_is_smaller_and_says_its_encoding(tmp_path):
    federation = Federation(tmp_path, encoding="int8").start()
    federation.run()
    state = federation.observe().state
    assert {u.encoding for u in state.updates.values()} == {"int8"}
    assert weights_sha256(INITIAL) == state.models[0].weights_sha256
    kinds = {layout.parse(key).kind for key in federation.place.objects}
    assert "update-payload" in kinds


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "FedBest"},
        {"strategy_options": {"speed": 1.0}},
        {"encoding": "zip"},
        {"encoding": "topk", "encoding_options": {"fraction": 2.0}},
        {"strategy": "FedAvgM", "strategy_options": {"server_momentum": -1.0}},
    ],
)
def test_unknown_strategies_encodings_and_options_are_refused_at_init(tmp_path, options):
    with pytest.raises(UserError):
        Federation(tmp_path, **options)
