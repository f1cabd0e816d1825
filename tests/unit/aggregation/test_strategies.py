"""Numbers of the strategies, beside Flower's and torch's; their options and the order of calls.

What Flower's own code gives is in ``tests/golden/flower.json``, which ``tests/support/flower.py``
writes where flwr is installed.
"""

import json

import numpy as np
import pytest

from fedfs.aggregation.strategies import (
    STRATEGIES,
    FedAvg,
    FedAvgM,
    Krum,
    MultiKrum,
    NormClipping,
    by_name,
)
from fedfs.errors import StudyError, TensorError, UserError
from support.flower import CASES, GOLDEN, N_ROUNDS, N_VALUES, SITES, flatten, moves, tensors

FLOWER = json.loads(GOLDEN.read_text())["values"]


def run_round(strategy, base, trained, state=None, version=1, weights=SITES):
    """One aggregation as the aggregator does it: name -> value, (name, slot) -> state."""
    one = strategy.begin(weights, version=version)

    def of(name):
        have = [site for site in sorted(trained) if name in trained[site]]
        return have, (np.subtract(trained[s][name], base[name], dtype=np.float64) for s in have)

    while one.scanning:
        for name in base:
            one.scan(*of(name))
        one.end_scan()
    values, new_state = {}, {}
    for name in base:
        old = {slot: state[name, slot] for slot in strategy.slots} if state else {}
        combined = one.combine(name, base[name], *of(name), old)
        values[name] = combined.value
        new_state |= {(name, slot): array for slot, array in combined.state.items()}
    return values, new_state


def ours(name, options, n_rounds=N_ROUNDS):
    strategy, model, state = by_name(name, options), tensors([0] * N_VALUES), None
    for version in range(1, n_rounds + 1):
        trained = {
            site: tensors(flatten(model) + np.asarray(move, np.float32))
            for site, move in moves(version).items()
        }
        model, state = run_round(strategy, model, trained, state, version)
    return flatten(model)


@pytest.mark.parametrize("case", CASES)
def test_three_rounds_give_the_numbers_that_flower_gives(case):
    np.testing.assert_allclose(ours(*CASES[case]), FLOWER[case], rtol=2e-6, atol=2e-7)


def test_every_strategy_that_flower_has_too_is_compared_with_it():
    assert FLOWER.keys() == CASES.keys()
    assert {name.lower() for name, _ in CASES.values()} == STRATEGIES.keys() - {"nesterov"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_server_momentum_is_that_of_torch(nesterov):
    torch = pytest.importorskip("torch")
    name = "Nesterov" if nesterov else "FedAvgM"
    options = {"server_learning_rate": 0.7, "server_momentum": 0.9}  # DiLoCo's
    weights = torch.zeros(N_VALUES, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=nesterov)
    for version in range(1, N_ROUNDS + 1):
        mean = np.average(list(moves(version).values()), axis=0, weights=list(SITES.values()))
        weights.grad = torch.from_numpy(-mean)
        sgd.step()
    np.testing.assert_allclose(ours(name, options), weights.detach().numpy(), rtol=2e-6, atol=2e-7)


def one_tensor(strategy, trained, weights=None, base=0.0, state=None, version=1):
    """A round of one tensor ``w`` of one dimension; value and state by slot."""
    base = np.full_like(np.asarray(next(iter(trained.values())), np.float32), base)
    models = {site: {"w": np.asarray(values, np.float32)} for site, values in trained.items()}
    values, new = run_round(
        strategy,
        {"w": base},
        models,
        {("w", slot): array for slot, array in state.items()} if state else None,
        version,
        weights or dict.fromkeys(trained, 1.0),
    )
    return values["w"], {slot: array for (_, slot), array in new.items()}


def test_a_long_update_is_scaled_down_over_all_tensors_together_and_a_short_one_is_not():
    strategy = by_name("FedAvg", {"clip_norm": 5})
    base = {"a": np.zeros(2, np.float32), "b": np.zeros((), np.float32)}
    long = {"a": np.float32([6, 0]), "b": np.asarray(np.float32(8))}
    short = {"a": np.float32([3, 0]), "b": np.asarray(np.float32(4))}
    for update in (long, short):
        values, _ = run_round(strategy, base, {"east": update})
        assert (values["a"].tolist(), values["b"].tolist()) == ([3, 0], 4)


def test_krum_measures_distances_of_clipped_updates():
    trained = {"a": [1.0, 0.0], "b": [0.0, 2.0], "c": [0.0, 9.0]}
    assert one_tensor(Krum(), trained)[0].tolist() == [1, 0]  # a and b are nearest to each other
    assert one_tensor(by_name("Krum", {"clip_norm": 1}), trained)[0].tolist() == [0, 1]


def test_equal_scores_are_settled_by_name():
    krum = Krum()
    assert one_tensor(krum, {"north": [1.0], "south": [3.0]})[0].tolist() == [1]
    assert one_tensor(krum, {"south": [1.0], "north": [3.0]})[0].tolist() == [3]


def test_multikrum_weighs_what_it_selects_and_never_selects_more_than_there_are_honest():
    trained = {"a": [1.0], "b": [1.25], "c": [1e30], "d": [0.75], "e": [1.5]}
    weights = {"a": 1.0, "b": 1.0, "c": 96.0, "d": 1.0, "e": 1.0}
    strategy = MultiKrum(num_malicious_nodes=1, num_nodes_to_select=5)
    assert one_tensor(strategy, trained, weights)[0].tolist() == [1.125]


def nets(**depths):
    """Updates of nets of unlike depth: tensor ``t<i>`` exists in nets deeper than i."""
    return {
        site: {f"t{i}": np.float32([value, value]) for i in range(depth)}
        for site, (depth, value) in depths.items()
    }


def test_krum_compares_what_two_nets_share_and_falls_back_where_the_selected_has_nothing():
    base = {f"t{i}": np.zeros(2, np.float32) for i in range(3)}
    trained = nets(a=(2, 1.0), b=(2, 1.5), c=(3, 2.0), d=(3, 9.0))
    values, _ = run_round(Krum(), base, trained, weights=dict.fromkeys(trained, 1.0))
    # Nearest others, per element: a 0.25 + 1, b 0.25 + 0.25, c 0.25 + 1, d 49 + 56.25.
    assert [values[f"t{i}"].tolist() for i in range(3)] == [[1.5, 1.5], [1.5, 1.5], [2, 2]]


def test_a_distance_over_few_elements_counts_as_much_as_one_over_many():
    base = {"t": np.zeros(1, np.float32), "u": np.zeros(8, np.float32)}
    both = {"a": 0.0, "b": 1.0}
    trained = {s: {"t": base["t"] + v, "u": base["u"] + v} for s, v in both.items()}
    trained["c"] = {"t": np.float32([-1.5])}
    # Per element a and b differ by 1, a and c by 2.25; summed they would by 9 and 2.25.
    values, _ = run_round(Krum(), base, trained, weights=dict.fromkeys("abc", 1.0))
    assert values["t"].tolist() == [0]
    trained["a"], trained["b"] = trained["b"], trained["a"]
    values, _ = run_round(Krum(), base, trained, weights=dict.fromkeys("abc", 1.0))
    assert values["t"].tolist() == [1]


def test_nets_that_share_nothing_are_infinitely_far_apart():
    base = {"t": np.zeros(1, np.float32), "u": np.zeros(1, np.float32)}
    trained = {
        "a": {"t": np.float32([1])},
        "b": {"u": np.float32([1])},
        "c": {"u": np.float32([2])},
    }
    values, _ = run_round(Krum(), base, trained, weights=dict.fromkeys(trained, 1.0))
    assert values["u"].tolist() == [1]  # b and c are near, a ranks last
    assert values["t"].tolist() == [1]  # but nobody else has t


@pytest.mark.parametrize(("name", "n", "expected"), [
    ("FedAvg", 9, 0), ("FedAdam", 9, 0), ("FedMedian", 0, 0), ("FedMedian", 1, 0),
    ("FedMedian", 3, 1), ("FedMedian", 4, 1), ("FedTrimmedAvg", 4, 0), ("FedTrimmedAvg", 5, 1),
    ("FedTrimmedAvg", 11, 2), ("Krum", 9, 0),
])  # fmt: skip
def test_a_strategy_says_how_many_attackers_it_tolerates(name, n, expected):
    assert by_name(name).tolerates(n) == expected
    assert by_name(name, {"clip_norm": 1}).tolerates(n) == expected


def test_krum_refuses_to_tolerate_more_than_it_can():
    krum = Krum(num_malicious_nodes=2)
    assert (krum.tolerates(6), krum.tolerates(7)) == (0, 2)
    weights = dict.fromkeys("abcdefg", 1.0)
    krum.begin(weights, version=1)
    with pytest.raises(StudyError, match="cannot tolerate 2 attackers among 6 updates") as error:
        krum.begin({**weights, "g": 0.0}, version=1)
    assert error.value.hint.startswith("it needs 7 updates")


@pytest.mark.parametrize(("name", "slots"), [
    ("FedAvg", ()), ("FedAvgM", ()), ("Nesterov", ("momentum",)), ("FedMedian", ()), ("Krum", ()),
    ("FedAdam", ("first_moment", "second_moment_root")), ("FedAdagrad", ("second_moment_root",)),
])  # fmt: skip
def test_a_strategy_names_its_state(name, slots):
    assert by_name(name).slots == by_name(name, {"clip_norm": 1}).slots == slots
    assert set(one_tensor(by_name(name), {"a": [1.0, 2.0]})[1]) == set(slots)


@pytest.mark.parametrize("clipped", [{}, {"clip_norm": 1}])
def test_only_fedprox_holds_sites_to_their_base(clipped):
    assert by_name("fedprox", {"proximal_mu": 0.1, **clipped}).proximal_mu == 0.1
    assert by_name("FedProx", {"proximal_mu": 0, **clipped}).proximal_mu == 0
    held = [name for name in STRATEGIES if by_name(name, clipped).proximal_mu]
    assert held == ["fedprox"]


def test_momentum_is_a_slot_only_if_there_is_any():
    assert FedAvgM(server_momentum=0.5).slots == ("momentum",)
    assert by_name("Nesterov", {"server_momentum": 0}).slots == ()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_scalars_and_empty_tensors_keep_their_shape(name):
    for base in (np.zeros((), np.float32), np.zeros((0, 3), np.float32)):
        trained = {site: {"w": base + np.float32(i)} for i, site in enumerate("abc")}
        values, state = run_round(
            by_name(name), {"w": base}, trained, weights=dict.fromkeys("abc", 1.0)
        )
        for array in (values["w"], *state.values()):
            assert isinstance(array, np.ndarray)
            assert (array.shape, array.dtype) == (base.shape, np.float32)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_a_tensor_that_no_update_has_stays_with_its_state(name, options):
    strategy, base = by_name(name, options), np.float32([1, 2])
    state = {slot: np.float32([3, 4]) for slot in strategy.slots}
    one = strategy.begin({"a": 1.0}, version=2)
    while one.scanning:
        one.scan([], [])
        one.end_scan()
    combined = one.combine("w", base, [], [], state)
    assert combined.value.tolist() == [1, 2]
    assert combined.value is not base
    assert {slot: array.tolist() for slot, array in combined.state.items()} == {
        slot: [3, 4] for slot in strategy.slots
    }


def test_steps_that_diverge_end_with_an_error_and_not_with_infinite_weights():
    strategy = FedAvgM(server_momentum=0.9)
    _, state = one_tensor(strategy, {"a": [3e38]})
    with pytest.raises(StudyError, match="momentum of tensor 'w' is not finite|value of tensor"):
        one_tensor(strategy, {"a": [3e38]}, state=state, version=2)
    with pytest.raises(StudyError, match="new value of tensor 'w' is not finite"):
        one_tensor(FedAvgM(server_learning_rate=2), {"a": [3e38]})


def test_squares_beyond_float32_are_no_trouble():
    value, state = one_tensor(by_name("FedAdagrad", {"eta": 0.1}), {"a": [1e30, 1e-30]})
    np.testing.assert_allclose(state["second_moment_root"], [1e30, 1e-30], rtol=1e-6)
    np.testing.assert_allclose(value, [0.1, 1e-28], rtol=1e-6)


@pytest.mark.parametrize(("name", "options", "message", "hint"), [
    ("FedAvgM", {"server_momentum": 1.0}, "'server_momentum' of FedAvgM is 1.0", "below 1"),
    ("FedAvgM", {"server_momentum": -0.1}, "is -0.1", "of at least 0"),
    ("Nesterov", {"server_learning_rate": 0}, "'server_learning_rate' of Nesterov", "above 0"),
    ("FedAdam", {"eta": float("nan")}, "'eta' of FedAdam is nan", "a number above 0"),
    ("FedAdam", {"eta": float("inf")}, "'eta' of FedAdam is inf", "a number above 0"),
    ("FedYogi", {"tau": 0.0}, "'tau' of FedYogi", "above 0"),
    ("FedTrimmedAvg", {"beta": 0.5}, "'beta' of FedTrimmedAvg is 0.5", "below 0.5"),
    ("Krum", {"num_malicious_nodes": 1.5}, "is 1.5", "a whole number of at least 0"),
    ("Krum", {"num_malicious_nodes": True}, "is True", "a whole number of at least 0"),
    ("MultiKrum", {"num_nodes_to_select": 0}, "is 0", "a whole number of at least 1"),
    ("FedProx", {"proximal_mu": -0.1}, "'proximal_mu' of FedProx is -0.1", "of at least 0"),
    ("FedProx", {"proximal_mu": float("inf")}, "'proximal_mu' of FedProx is inf", "a number"),
    ("FedAvg", {"proximal_mu": 0.1}, "no option 'proximal_mu'", "its options are: clip_norm"),
    ("FedAvg", {"clip_norm": 0}, "'clip_norm' of NormClipping is 0", "above 0"),
    ("FedAvg", {"clip_norm": float("nan")}, "'clip_norm' of NormClipping is nan", "above 0"),
    ("FedAdagrad", {"beta_1": 0.9}, "no option 'beta_1'", "its options are: eta, tau, clip_norm"),
    ("Krum", {"num_nodes_to_select": 2}, "no option 'num_nodes", "num_malicious_nodes, clip_norm"),
    ("FedAvg", {"eta": 1}, "no option 'eta'", "its options are: clip_norm"),
    ("NormClipping", {}, "Unknown strategy 'NormClipping'", "any of them takes clip_norm"),
])  # fmt: skip
def test_unusable_options_say_what_is_allowed(name, options, message, hint):
    with pytest.raises(UserError, match=message) as error:
        by_name(name, options)
    assert hint in error.value.hint


def test_options_may_be_whole_numbers_written_as_floats():
    strategy = by_name("multikrum", {"num_malicious_nodes": 1.0, "num_nodes_to_select": 2.0})
    assert strategy == MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2)
    assert by_name("FEDAVG", {"clip_norm": 2}) == NormClipping(inner=FedAvg(), clip_norm=2)


def test_a_round_insists_on_the_order_of_calls():
    plain = FedAvg().begin({"a": 1.0}, version=1)
    assert not plain.scanning
    with pytest.raises(RuntimeError, match="needs no scan"):
        plain.scan(["a"], [np.zeros(1)])
    with pytest.raises(RuntimeError, match="needs no scan"):
        plain.end_scan()
    for strategy in (Krum(), by_name("FedAvg", {"clip_norm": 1})):
        with pytest.raises(RuntimeError, match="before the scan is complete"):
            strategy.begin({"a": 1.0}, version=1).combine(
                "w", np.zeros(1, np.float32), ["a"], [np.zeros(1)]
            )
    done = Krum().begin({"a": 1.0}, version=1)
    done.end_scan()
    with pytest.raises(RuntimeError, match="complete"):
        done.scan(["a"], [np.zeros(1)])
    clipped = by_name("Krum", {"clip_norm": 1}).begin({"a": 1.0}, version=1)
    for _ in range(2):  # one pass for the norms, one for the distances
        assert clipped.scanning
        clipped.end_scan()
    assert not clipped.scanning


def test_updates_out_of_order_of_another_shape_or_of_no_sensible_weight_are_refused():
    base, two = np.zeros(1, np.float32), {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match="ascending order"):
        FedAvg().begin(two, version=1).combine("w", base, ["b", "a"], [base, base])
    with pytest.raises(TensorError, match=r"update 'b' of tensor 'w' has shape \(2,\), not \(1,\)"):
        FedAvg().begin(two, version=1).combine("w", base, ["a", "b"], [np.zeros(1), np.zeros(2)])
    with pytest.raises(TensorError, match=r"update 'b' .* has shape \(2,\)"):
        Krum().begin(two, version=1).scan(["a", "b"], [np.zeros(1), np.zeros(2)])
    with pytest.raises(TensorError, match="momentum of tensor 'w' has shape"):
        by_name("Nesterov").begin(two, version=1).combine(
            "w", base, ["a"], [np.zeros(1)], {"momentum": np.zeros(2, np.float32)}
        )
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weights must be finite"):
            FedAvg().begin({"a": weight}, version=1)
