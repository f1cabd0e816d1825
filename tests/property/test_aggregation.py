"""The laws of weights, encodings and strategies."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfs.aggregation import strategies, weighting
from fedfs.aggregation.strategies import FedAvg
from fedfs.aggregation.weighting import Contribution, weigh
from fedfs.errors import MalformedError, StudyError, TensorError, UserError
from fedfs.tensors import encodings

FEDAVG = FedAvg()
FP32 = encodings.by_name("fp32")

shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
values = st.floats(-(2.0**100), 2.0**100, width=32)
ordinary = st.floats(-100, 100, width=32)


def arrays(n_sites, elements=ordinary):
    """Base and the trained tensors of the sites, of one shape."""
    return shapes.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=elements),
            st.lists(
                hnp.arrays(np.float32, shape, elements=elements),
                min_size=n_sites[0],
                max_size=n_sites[1],
            ),
        )
    )


contributions = st.lists(
    st.builds(
        Contribution,
        site=st.sampled_from(["north", "south", "east"]),
        n_cases=st.integers(1, 5000),
        n_iterations=st.integers(1, 300),
        planned_iterations=st.integers(1, 300),
    ),
    min_size=1,
    max_size=6,
)


def average(base, trained, weights):
    deltas = [np.asarray(np.subtract(tensor, base, dtype=np.float64)) for tensor in trained]
    return combine(base, deltas, weights)


def combine(base, deltas, weights, name="w"):
    sites = [f"site-{i}" for i in range(len(weights))]
    one = FEDAVG.begin(dict(zip(sites, weights, strict=True)), version=1)
    return one.combine(name, base, sites, deltas).value


def tolerance(base, trained):
    """One rounding to float32 of the result, and float64 roundings at the size of the operands."""
    largest = np.max(np.abs(np.stack([base, *trained])), axis=0).astype(np.float64)
    return largest * 2.0**-23 + 2.0**-140


def some_weights(n, seed):
    raw = np.random.default_rng(seed).uniform(0.01, 1, n)
    return tuple((raw / math.fsum(raw)).tolist())


@given(arrays((1, 1), values))
def test_one_site_is_the_identity_bit_for_bit_where_float64_holds_the_difference(pair):
    base, (trained,) = pair
    result = average(base, [trained], (1.0,))
    assert result.dtype == np.float32
    assert result.shape == base.shape
    exact = (trained == 0) | (np.abs(trained) >= np.abs(base) * 2.0**-28)
    np.testing.assert_array_equal(result[exact], trained[exact])
    error = np.abs(result.astype(np.float64) - trained)
    assert (error <= np.abs(base.astype(np.float64)) * 2.0**-53 + np.spacing(np.abs(trained))).all()


def test_one_site_is_the_identity_on_weights_like_those_of_a_network():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.05, 1_000_000).astype(np.float32)
    trained = (base + rng.normal(0, 0.01, base.size)).astype(np.float32)
    assert average(base, [trained], (1.0,)).tobytes() == trained.tobytes()


@given(arrays((1, 6)), st.integers(0, 99))
def test_equal_updates_are_a_fixed_point(pair, seed):
    base, trained = pair
    same = [trained[0]] * len(trained)
    result = average(base, same, some_weights(len(same), seed))
    assert (np.abs(result - trained[0]) <= tolerance(base, same)).all()


@given(arrays((1, 6)), st.integers(0, 99))
def test_the_base_is_a_fixed_point_if_nobody_trained(pair, seed):
    base, trained = pair
    result = average(base, [base] * len(trained), some_weights(len(trained), seed))
    np.testing.assert_array_equal(result, base)


@given(arrays((1, 6)), st.integers(0, 99))
def test_the_result_lies_within_the_hull_of_the_trained_values(pair, seed):
    base, trained = pair
    result = average(base, trained, some_weights(len(trained), seed))
    slack = tolerance(base, trained)
    assert (result >= np.min(trained, axis=0) - slack).all()
    assert (result <= np.max(trained, axis=0) + slack).all()


@given(arrays((1, 6)), st.integers(0, 99))
def test_the_result_is_the_weighted_mean_of_the_trained_values(pair, seed):
    base, trained = pair
    weights = some_weights(len(trained), seed)
    mean = sum(w * t.astype(np.float64) for w, t in zip(weights, trained, strict=True))
    assert (np.abs(average(base, trained, weights) - mean) <= tolerance(base, trained)).all()


@given(arrays((2, 6)), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_updates_changes_nothing_but_rounding(pair, seed, random):
    base, trained = pair
    weights = some_weights(len(trained), seed)
    order = list(range(len(trained)))
    random.shuffle(order)
    result = average(base, trained, weights)
    again = average(base, [trained[i] for i in order], [weights[i] for i in order])
    assert (np.abs(result - again) <= tolerance(base, trained)).all()
    # In one order, as the aggregator sorts by site, it is the same to the last bit.
    assert average(base, trained, weights).tobytes() == result.tobytes()


@given(arrays((2, 4)), st.integers(0, 99))
def test_a_site_of_weight_zero_changes_nothing(pair, seed):
    base, trained = pair
    weights = some_weights(len(trained) - 1, seed)
    np.testing.assert_array_equal(
        average(base, trained, (*weights, 0.0)), average(base, trained[:-1], weights)
    )


@given(arrays((1, 1), values))
def test_fp32_carries_the_trained_values_and_decodes_to_their_difference(pair):
    base, (trained,) = pair
    encoded = FP32.encode("t", trained, base)
    assert encoded.residual is None
    assert encoded.payload["t"].tobytes() == trained.tobytes()
    delta = FP32.decode("t", encoded.payload, base)
    assert delta.dtype == np.float64
    np.testing.assert_array_equal(delta, trained.astype(np.float64) - base.astype(np.float64))


def test_deltas_may_come_one_by_one_and_inputs_are_left_alone():
    base, delta = np.ones((2, 2), np.float32), np.full((2, 2), 0.5)
    result = combine(base, iter([delta, delta]), (0.5, 0.5))
    np.testing.assert_array_equal(result, 1.5)
    np.testing.assert_array_equal(base, 1)
    np.testing.assert_array_equal(delta, 0.5)


def test_a_delta_of_another_shape_is_refused_and_not_broadcast():
    base = np.ones((2, 2), np.float32)
    with pytest.raises(TensorError, match=r"'conv\.weight' has shape"):
        combine(base, [np.ones(2)], (1.0,), name="conv.weight")


def test_a_strategy_wants_as_many_weights_as_deltas():
    with pytest.raises(ValueError, match="zip"):
        combine(np.ones(2, np.float32), [np.ones(2)], (0.5, 0.5))


@given(contributions, st.sampled_from(sorted(weighting.POLICIES)))
def test_weights_are_positive_and_sum_to_one(items, policy):
    weights = weigh(items, policy)
    assert len(weights) == len(items)
    assert min(weights) > 0
    assert math.fsum(weights) == pytest.approx(1, abs=1e-15)


@given(contributions, st.randoms(use_true_random=False))
def test_a_contribution_weighs_the_same_in_any_order(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    paired = dict(zip(map(repr, items), weigh(items, "n_cases"), strict=True))
    assert dict(zip(map(repr, shuffled), weigh(shuffled, "n_cases"), strict=True)) == paired


@given(contributions, st.integers(2, 1000))
def test_scaling_the_numbers_of_cases_changes_no_weight(items, factor):
    scaled = [
        Contribution(i.site, i.n_cases * factor, i.n_iterations, i.planned_iterations)
        for i in items
    ]
    assert weigh(scaled, "n_cases") == pytest.approx(weigh(items, "n_cases"), rel=1e-12)


def test_policies_weigh_cases_or_sites():
    items = [Contribution("north", 90, 250, 250), Contribution("south", 10, 250, 250)]
    assert weigh(items, "n_cases") == (0.9, 0.1)
    assert weigh(items, "uniform") == (0.5, 0.5)
    assert weigh(items[:1], "n_cases") == (1.0,)


def test_a_site_that_ran_out_of_time_is_weighted_by_what_it_completed():
    items = [Contribution("north", 10, 250, 250), Contribution("south", 10, 50, 250)]
    assert weigh(items, "n_cases") == pytest.approx((5 / 6, 1 / 6))
    assert weigh(items, "uniform") == pytest.approx((5 / 6, 1 / 6))


def test_more_iterations_than_planned_do_not_raise_a_weight():
    items = [Contribution("north", 10, 250, 250), Contribution("south", 10, 10**9, 250)]
    assert weigh(items, "n_cases") == (0.5, 0.5)


def test_stale_updates_weigh_less_if_the_exponent_says_so():
    items = [Contribution("north", 10, 1, 1), Contribution("south", 10, 1, 1, lag=3)]
    assert weigh(items, "n_cases") == (0.5, 0.5)
    assert weigh(items, "n_cases", staleness_exponent=0.5) == pytest.approx((2 / 3, 1 / 3))
    assert weighting.staleness(0, 0.7) == 1
    with pytest.raises(MalformedError, match="2 ahead"):
        weighting.staleness(-2, 0.5)


@given(st.integers(0, 1000), st.floats(0, 4))
def test_staleness_never_rises_with_the_lag(lag, exponent):
    assume(lag > 0)
    assert 0 < weighting.staleness(lag, exponent) <= weighting.staleness(lag - 1, exponent) <= 1


@pytest.mark.parametrize(
    "items", [[], [Contribution("north", 0, 1, 1)], [Contribution("north", 5, 0, 0)]]
)
def test_weights_that_are_all_zero_are_an_error(items):
    with pytest.raises(StudyError, match="No update has a weight above zero"):
        weigh(items, "n_cases")


@pytest.mark.parametrize(
    "item",
    [
        Contribution("north", -1, 1, 1),
        Contribution("north", 1, -1, 1),
        Contribution("north", 1, 1, -1),
        Contribution("north", 1, 1, 1, lag=-1),
    ],
)
def test_negative_counts_are_refused_by_site(item):
    with pytest.raises(MalformedError, match="'north'"):
        weigh([item], "uniform")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match="policy 'fair'") as policy:
        weigh([Contribution("north", 1, 1, 1)], "fair")
    assert policy.value.hint == "known are: n_cases, uniform"
    with pytest.raises(UserError, match="strategy 'feddyn'") as strategy:
        strategies.by_name("feddyn")
    assert strategy.value.hint.startswith("known are: FedAdagrad, FedAdam, FedAvg, FedAvgM, ")
    with pytest.raises(UserError, match="no option 'momentum'") as option:
        strategies.by_name("fedavg", {"momentum": 0.9})
    assert option.value.hint == "its options are: clip_norm"


def test_strategies_are_found_by_the_names_that_flower_uses():
    assert strategies.by_name("FedAvg") == strategies.by_name("fedavg", {}) == FedAvg()
