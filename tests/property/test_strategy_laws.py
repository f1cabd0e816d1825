"""The laws of server-side strategies."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfs.aggregation.strategies import STRATEGIES, FedAvg, MultiKrum, NormClipping, by_name
from fedfs.tensors.canonical import TensorFile, write_safetensors
from support.rounds_of_updates import (
    TENSORS,
    aggregate,
    assert_close,
    assert_same,
    models,
    seeds,
    some_weights,
    updates,
    values_of,
)

NAMES = sorted(STRATEGIES)
WITH_STATE = ["FedAvgM", "Nesterov", "FedAdam", "FedYogi", "FedAdagrad"]
MEMORY = {"FedAvgM": {"server_momentum": 0.5}}

ties = st.sampled_from([-1.0, 0.0, 1.0])
anything = st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from(
    [2.0**100, -(2.0**100), 0.0]
)
any_strategy = st.tuples(st.sampled_from(NAMES), st.sampled_from([{}, {"clip_norm": 2.5}]))


def vectors(elements, size=4):
    return hnp.arrays(np.float32, size, elements=elements)


def make(case, options=None):
    name, common = case
    return by_name(name, {**MEMORY.get(name, {}), **common, **(options or {})})


@given(any_strategy, models(), updates(2), seeds, st.randoms(use_true_random=False))
def test_the_order_in_which_updates_arrive_changes_no_bit(case, base, trained, seed, random):
    weights = some_weights(trained, seed)
    order = list(trained)
    random.shuffle(order)
    first = values_of(make(case), base, trained, weights)
    again = values_of(
        make(case), base, {s: trained[s] for s in order}, {s: weights[s] for s in order[::-1]}
    )
    assert_same(first, again)


@given(
    st.sampled_from(sorted({*NAMES} - {"krum", "multikrum"})),
    models(ties),
    updates(2, elements=ties),
    seeds,
    st.randoms(use_true_random=False),
)
def test_names_of_sites_change_nothing_but_rounding_with_ties_too(
    name, base, trained, seed, random
):
    weights = some_weights(trained, seed)
    aliases = list(trained)
    random.shuffle(aliases)
    aliases = dict(zip(trained, aliases, strict=True))
    renamed = {aliases[site]: model for site, model in trained.items()}
    reweighted = {aliases[site]: weight for site, weight in weights.items()}
    strategy = make((name, {}))
    first = values_of(strategy, base, trained, weights)
    again = values_of(strategy, base, renamed, reweighted)
    if strategy.stacks:  # values are sorted before they are added
        assert_same(first, again)
    else:
        # A mean that cancels is a rounding error, of which FedOpt makes a step of eta / tau.
        assert_close(first, again, atol=1e-6)


def squared_distances(trained):
    flat = {site: np.concatenate([m[n].ravel() for n in TENSORS]) for site, m in trained.items()}
    return {
        site: sorted(
            float(np.sum((flat[site].astype(np.float64) - flat[other]) ** 2))
            for other in flat
            if other != site
        )
        for site in flat
    }


@given(models(ties), updates(1, 7, elements=ties), st.integers(0, 2))
def test_krum_takes_the_first_name_of_those_with_the_least_score(base, trained, f):
    assume(f == 0 or len(trained) >= 2 * f + 3)
    n_closest = max(1, len(trained) - f - 2)
    scores = {s: math.fsum(d[:n_closest]) for s, d in squared_distances(trained).items()}
    expected = min(sorted(scores), key=scores.__getitem__)
    krum = by_name("Krum", {"num_malicious_nodes": f})
    assert_same(values_of(krum, base, trained, dict.fromkeys(trained, 1.0)), trained[expected])


@given(any_strategy, models(), updates(), seeds, st.integers(-20, 20), st.floats(1e-3, 1e3))
def test_only_the_ratio_of_weights_matters(case, base, trained, seed, exponent, factor):
    weights = some_weights(trained, seed)
    first = values_of(make(case), base, trained, weights)
    doubled = {site: weight * 2.0**exponent for site, weight in weights.items()}
    assert_same(first, values_of(make(case), base, trained, doubled))
    scaled = {site: weight * factor for site, weight in weights.items()}
    assert_close(first, values_of(make(case), base, trained, scaled))


@given(any_strategy, models(), updates(2), seeds)
def test_an_update_of_weight_zero_counts_for_nothing(case, base, trained, seed):
    weights = some_weights(trained, seed)
    without = {site: model for site, model in trained.items() if site != "site-0"}
    first = values_of(make(case), base, trained, {**weights, "site-0": 0.0})
    del weights["site-0"]
    assert_same(first, values_of(make(case), base, without, weights))


IDENTITY = ["FedAvg", "FedAvgM", "FedMedian", "FedProx", "FedTrimmedAvg", "Krum", "MultiKrum"]


@given(st.sampled_from(IDENTITY), models(), updates(1, 1), seeds)
def test_one_site_is_the_identity(name, base, trained, seed):
    weights = some_weights(trained, seed)
    assert_same(values_of(by_name(name), base, trained, weights), trained["site-0"])


@given(st.sampled_from(IDENTITY), models(), models(), st.integers(1, 6), seeds)
def test_equal_updates_are_a_fixed_point(name, base, model, n, seed):
    trained = {f"site-{i}": model for i in range(n)}
    result = values_of(by_name(name), base, trained, some_weights(trained, seed))
    if name in ("FedMedian", "FedTrimmedAvg", "Krum"):
        assert_same(result, model)
    else:
        assert_close(result, model, rtol=2.0**-22, atol=1e-9)


@given(any_strategy, models(), st.integers(1, 6), seeds)
def test_the_base_is_a_fixed_point_if_nobody_trained(case, base, n, seed):
    trained = {f"site-{i}": base for i in range(n)}
    assert_same(values_of(make(case), base, trained, some_weights(trained, seed)), base)


@given(models(), updates(2), seeds)
def test_strategies_without_their_speciality_are_fedavg(base, trained, seed):
    weights = some_weights(trained, seed)
    expected = values_of(FedAvg(), base, trained, weights)
    for strategy in (
        by_name("FedAvgM"),
        by_name("FedProx", {"proximal_mu": 3}),  # its speciality is the sites'
        by_name("Nesterov", {"server_learning_rate": 1, "server_momentum": 0}),
        by_name("MultiKrum", {"num_nodes_to_select": len(trained)}),
        by_name("FedAvg", {"clip_norm": 1e9}),
    ):
        assert_same(values_of(strategy, base, trained, weights), expected)
    alike = dict.fromkeys(trained, 1.0)
    assert_close(
        values_of(by_name("FedTrimmedAvg", {"beta": 0}), base, trained, weights),
        values_of(FedAvg(), base, trained, alike),
    )


@given(
    st.sampled_from(
        [("FedMedian", {}), ("FedTrimmedAvg", {"beta": 0.2}), ("FedTrimmedAvg", {"beta": 0.4})]
    ),
    models(),
    updates(1, 7),
    st.data(),
)
def test_tolerated_attackers_leave_every_value_within_the_honest_range(case, base, trained, data):
    strategy = by_name(*case)
    n_attackers = strategy.tolerates(len(trained))
    names = data.draw(st.permutations(sorted(trained)))
    attackers, honest = names[:n_attackers], names[n_attackers:]
    attack = {site: data.draw(models(anything)) for site in attackers}
    weights = {**dict.fromkeys(honest, 1.0), **dict.fromkeys(attackers, 1e6)}
    result = values_of(strategy, base, {**trained, **attack}, weights)
    for name in TENSORS:
        kept = np.stack([trained[site][name] for site in honest])
        assert (result[name] >= kept.min(axis=0)).all()
        assert (result[name] <= kept.max(axis=0)).all()


@st.composite
def besieged(draw, far):
    """2 f + 3 or more updates, f of them attackers'; far away from all honest ones if ``far``."""
    f = draw(st.integers(1, 3))
    n = draw(st.integers(2 * f + 3, 2 * f + 6))
    names = draw(st.permutations([f"site-{i}" for i in range(n)]))
    honest = {site: draw(vectors(st.floats(-1, 1, width=16))) for site in names[f:]}
    one_point = draw(st.booleans())  # the attackers agree, so they have near neighbours
    attack = draw(vectors(anything))
    attackers = {site: attack if one_point else draw(vectors(anything)) for site in names[:f]}
    if far:
        reach = math.sqrt(n - f - 2) * diameter(honest.values())
        for values in attackers.values():
            distances = [np.linalg.norm(values.astype(np.float64) - h) for h in honest.values()]
            assume(min(distances) > reach * 1.001 + 1e-6)
    return f, honest, attackers


def diameter(points):
    points = [point.astype(np.float64) for point in points]
    return max(np.linalg.norm(a - b) for a in points for b in points)


def krum_of(f, honest, attackers, n_select):
    trained = {site: {"w": values} for site, values in {**honest, **attackers}.items()}
    strategy = MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n_select)
    base = {"w": np.zeros(4, np.float32)}
    return values_of(strategy, base, trained, dict.fromkeys(trained, 1.0))["w"]


@given(besieged(far=False))
def test_what_krum_takes_is_near_an_honest_update_whatever_attackers_send(siege):
    # It scores no worse than any honest update, and honest updates are among its nearest.
    f, honest, attackers = siege
    result = krum_of(f, honest, attackers, 1).astype(np.float64)
    nearest = min(np.linalg.norm(result - values) for values in honest.values())
    n = len(honest) + len(attackers)
    assert nearest <= math.sqrt(n - f - 2) * diameter(honest.values()) * (1 + 1e-9)


@given(besieged(far=True), st.integers(1, 20))
def test_krum_drops_attackers_that_are_far_away(siege, n_select):
    f, honest, attackers = siege
    chosen = krum_of(f, honest, attackers, 1)
    assert any(np.array_equal(chosen, values) for values in honest.values())
    several = krum_of(f, honest, attackers, n_select)
    kept = np.stack(list(honest.values()))
    assert (several >= kept.min(axis=0) - 1e-6).all()
    assert (several <= kept.max(axis=0) + 1e-6).all()


@given(models(), updates(1, 6, elements=anything), seeds, st.floats(1e-3, 1e3))
def test_clipping_bounds_how_far_the_model_moves_whatever_is_sent(base, trained, seed, clip_norm):
    weights = some_weights(trained, seed)
    for name in ("FedAvg", "Krum", "MultiKrum"):
        strategy = by_name(name, {"clip_norm": clip_norm})
        result = values_of(strategy, base, trained, weights)
        moved = [(result[n].astype(np.float64) - base[n]).ravel() for n in TENSORS]
        rounding = [np.spacing(np.abs(result[n])).ravel() for n in TENSORS]
        length, slack = (np.linalg.norm(np.concatenate(parts)) for parts in (moved, rounding))
        assert length <= clip_norm * (1 + 1e-9) + float(slack)  # in float64


@given(models(), updates(1, 1), st.floats(0.01, 1e5))
def test_clipping_keeps_the_direction_and_leaves_short_updates_alone(base, trained, clip_norm):
    seen = []

    class Spy(FedAvg):
        def mean(self, shares, deltas):
            seen.append(super().mean(shares, deltas))
            return seen[-1]

    values_of(NormClipping(inner=Spy(), clip_norm=clip_norm), base, trained, {"site-0": 1.0})
    model = trained["site-0"]
    delta = np.concatenate([(model[n].astype(np.float64) - base[n]).ravel() for n in base])
    clipped = np.concatenate([part.ravel() for part in seen])
    norm = np.linalg.norm(delta)
    if norm <= clip_norm:
        np.testing.assert_array_equal(clipped, delta)
    else:
        np.testing.assert_allclose(clipped, delta * (clip_norm / norm), rtol=1e-9)
        assert np.linalg.norm(clipped) == pytest.approx(clip_norm, rel=1e-9)


@given(st.sampled_from(sorted({*NAMES} - {"krum", "multikrum"})), models(), updates(3, 3), seeds)
def test_a_tensor_of_two_of_three_sites_is_combined_as_if_there_were_two(name, base, trained, seed):
    weights = some_weights(trained, seed)
    partial = {site: dict(model) for site, model in trained.items()}
    del partial["site-1"]["norm"]
    two = {site: model for site, model in trained.items() if site != "site-1"}
    result = values_of(make((name, {})), base, partial, weights)
    everyone = values_of(make((name, {})), base, trained, weights)
    only_two = values_of(make((name, {})), base, two, weights)
    np.testing.assert_array_equal(result["conv"], everyone["conv"])
    np.testing.assert_array_equal(result["norm"], only_two["norm"])


@given(st.sampled_from(["Krum", "MultiKrum"]), models(), updates(3, 6), seeds)
def test_krum_takes_a_tensor_from_updates_that_have_it(name, base, trained, seed):
    rng = np.random.default_rng(seed)
    partial = {
        site: {n: a for n, a in model.items() if n == "conv" or rng.random() < 0.5}
        for site, model in trained.items()
    }
    result = values_of(by_name(name), base, partial, some_weights(trained, seed))
    candidates = [model["norm"] for model in partial.values() if "norm" in model]
    candidates = candidates or [base["norm"]]
    assert any(np.array_equal(result["norm"], values) for values in candidates)


@given(
    st.sampled_from(WITH_STATE),
    st.sampled_from([{}, {"clip_norm": 2.5}]),
    models(),
    st.lists(updates(1, 3), min_size=2, max_size=4),
    seeds,
)
def test_a_study_goes_on_from_published_state_as_if_it_had_never_stopped(
    name, common, base, rounds, seed
):
    def study(carry):
        model, state = base, None
        for version, trained in enumerate(rounds, start=1):
            strategy = make((name, common))
            model, state = aggregate(
                strategy, model, trained, some_weights(trained, seed), state, version
            )
            model, state = carry(model, state)
        return model, state

    def through_files(model, state):
        flat = {f"{slot}/{n}": a for n, slots in state.items() for slot, a in slots.items()}
        with tempfile.TemporaryDirectory() as folder:
            for file, tensors in (("model", model), ("state", flat)):
                write_safetensors(Path(folder, file), tensors)
            with TensorFile(Path(folder, "model")) as file:
                model = dict(file.items())
            with TensorFile(Path(folder, "state")) as file:
                flat = dict(file.items())
        state = {n: {} for n in model}
        for key, array in flat.items():
            slot, _, n = key.partition("/")
            state[n][slot] = array
        return model, state

    model, state = study(lambda *both: both)
    model_again, state_again = study(through_files)
    assert_same(model, model_again)
    for tensor, slots in state.items():
        assert slots
        assert_same(slots, state_again[tensor])


@given(any_strategy, models(), updates(), seeds, st.integers(1, 3))
def test_tensors_may_be_cut_into_slices(case, base, trained, seed, size):
    def cut(model):
        return {
            f"{n}-{i}": array.ravel()[i : i + size]
            for n, array in model.items()
            for i in range(0, array.size, size)
        }

    weights = some_weights(trained, seed)
    whole = values_of(make(case), base, trained, weights)
    parts = values_of(
        make(case), cut(base), {site: cut(model) for site, model in trained.items()}, weights
    )
    if "clip_norm" in case[1]:  # norms are sums over slices
        assert_close(cut(whole), parts)
    else:
        assert_same(cut(whole), parts)


@given(any_strategy, models(), updates(2), seeds)
def test_inputs_are_left_alone(case, base, trained, seed):
    before = {n: a.copy() for n, a in base.items()}
    deltas = {
        n: [np.subtract(m[n], base[n], dtype=np.float64) for m in trained.values()] for n in base
    }
    copies = {n: [delta.copy() for delta in parts] for n, parts in deltas.items()}
    strategy, sites = make(case), list(trained)
    one = strategy.begin(some_weights(trained, seed), version=1)
    while one.scanning:
        for n in base:
            one.scan(sites, deltas[n])
        one.end_scan()
    for n in base:
        state = {slot: np.ones_like(base[n]) for slot in strategy.slots}
        one.combine(n, base[n], sites, deltas[n], state)
        assert all((array == 1).all() for array in state.values())
        for delta, copy in zip(deltas[n], copies[n], strict=True):
            np.testing.assert_array_equal(delta, copy)
    assert_same(base, before)


@given(models(), st.lists(updates(1, 3), min_size=1, max_size=5), seeds)
def test_a_step_of_adagrad_is_never_longer_than_eta_in_any_element(base, rounds, seed):
    strategy, model, state = by_name("FedAdagrad", {"eta": 0.25}), base, None
    for version, trained in enumerate(rounds, start=1):
        before = model
        model, state = aggregate(
            strategy, model, trained, some_weights(trained, seed), state, version
        )
        for n in model:
            step = np.abs(model[n].astype(np.float64) - before[n])
            assert (step <= 0.25 + np.spacing(np.abs(before[n]) + 1)).all()
