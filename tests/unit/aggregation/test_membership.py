"""Membership tests as arithmetic; numbers are those of scikit-learn, or counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from fedfs.aggregation.membership import (
    CHANGE,
    CONTRAST,
    FPR,
    LOSS,
    N_RESAMPLES,
    REFERENCES,
    CaseFit,
    attack,
    fpr_bound,
    separate,
    together,
)


def fits(**losses):
    return {c: CaseFit(loss=loss, margin=10 * loss, dice=None) for c, loss in losses.items()}


def drawn(n_trained, n_others, *, shift, seed=0, digits=1):
    """Scores with ties; names of those that were trained on begin with t."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(shift, 1, n_trained), rng.normal(0, 1, n_others)
    return {
        **{f"t{i}": round(float(v), digits) for i, v in enumerate(one)},
        **{f"o{i}": round(float(v), digits) for i, v in enumerate(other)},
    }


def trained_of(scores):
    return [case for case in scores if case.startswith("t")]


@pytest.mark.parametrize(("n_trained", "n_others"), [(32, 33), (5, 60), (300, 250), (1, 1)])
def test_auc_and_true_positives_are_those_of_scikit_learn(n_trained, n_others):
    scores = drawn(n_trained, n_others, shift=0.7)
    found = separate(scores, trained_of(scores), {}, seed=1)
    truth, values = [c.startswith("t") for c in scores], list(scores.values())
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    assert found.auc == pytest.approx(roc_auc_score(truth, values))
    assert found.tpr == pytest.approx(true[false <= FPR].max())
    assert (found.n_trained, found.n_others) == (n_trained, n_others)
    assert (found.auc_low is None) == (n_trained < 5)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """The AUC of two normal distributions whose means differ by 1 is 0.7602."""
    held = 0
    for seed in range(100):
        scores = drawn(40, 40, shift=1.0, seed=seed, digits=6)
        found = separate(scores, trained_of(scores), {}, seed=seed)
        held += found.auc_low <= 0.7602 <= found.auc_high
    assert 88 <= held <= 100


def test_an_interval_is_that_of_a_bootstrap_of_patients_drawn_one_by_one():
    scores = drawn(12, 14, shift=0.8)
    patients = {case: case[:2] for case in scores}  # t1 has t1, t10 and t11
    found = separate(scores, trained_of(scores), patients, seed=1)
    rng, groups = np.random.default_rng(5), {}
    for case, patient in patients.items():
        groups.setdefault(patient, []).append(scores[case])
    sides = [[g for p, g in groups.items() if p[0] == kind] for kind in "to"]
    aucs = []
    for _ in range(N_RESAMPLES):
        values = [
            [v for i in rng.integers(0, len(side), len(side)) for v in side[i]] for side in sides
        ]
        truth = [1] * len(values[0]) + [0] * len(values[1])
        aucs.append(roc_auc_score(truth, values[0] + values[1]))
    low, high = np.quantile(aucs, [0.025, 0.975])
    assert found.auc_low == pytest.approx(low, abs=0.03)
    assert found.auc_high == pytest.approx(high, abs=0.03)
    alone = separate(scores, trained_of(scores), {}, seed=1)
    assert found.auc_high - found.auc_low > alone.auc_high - alone.auc_low


def test_names_and_order_decide_nothing():
    scores = drawn(9, 8, shift=0.5)
    names = {case: f"{case[0]}-{number}" for number, case in enumerate(reversed(scores))}
    again = {names[case]: value for case, value in reversed(scores.items())}
    assert separate(scores, trained_of(scores), {}, seed=3) == separate(
        again, trained_of(again), {}, seed=3
    )


def test_scores_that_are_all_equal_tell_nothing():
    found = separate(dict.fromkeys("abcdefghij", 0.5), "abcde", {}, seed=1)
    assert (found.auc, found.auc_low, found.auc_high) == (0.5, 0.5, 0.5)
    assert (found.tpr, found.tpr_high) == (0.0, 0.0)


def test_few_cases_prove_no_small_rate_of_false_positives():
    """Of none in n, the bound p has (1 - p) ** n = 0.05."""
    assert fpr_bound(10) == pytest.approx(1 - 0.05 ** (1 / 10))
    assert fpr_bound(99) == pytest.approx(1 - 0.05 ** (1 / 99))
    assert fpr_bound(1000) == pytest.approx(0.0169, abs=1e-3)  # 10 of 1000


def test_attacks_take_what_there_is_to_compare_with():
    model = fits(a=0.2, b=0.6)
    assert attack(model) == {LOSS: {"a": -0.2, "b": -0.6}}
    found = attack(
        model,
        before=fits(a=0.5, b=0.7),
        following=fits(a=0.3, b=0.5),
        references=[fits(a=0.1), fits(a=0.3), fits(b=0.4)],
    )
    assert found[CHANGE] == pytest.approx({"a": 0.3, "b": 0.1})
    assert found[CONTRAST] == pytest.approx({"a": 0.1, "b": -0.1})
    assert found[REFERENCES] == pytest.approx({"a": 0.0, "b": 2.0})  # of margins: 10 times
    assert list(found) == [LOSS, CHANGE, CONTRAST, REFERENCES]


def test_a_case_without_a_reference_has_no_score_by_references():
    assert attack(fits(a=0.2, b=0.6), references=[fits(a=0.1)])[REFERENCES] == {"a": 1.0}


def test_models_together_have_the_mean_of_their_scores_where_all_have_one():
    found = together([{LOSS: {"a": 1.0, "b": 2.0}}, {LOSS: {"a": 3.0}, CHANGE: {"a": 5.0}}])
    assert found == {LOSS: {"a": 2.0}, CHANGE: {"a": 5.0}}
