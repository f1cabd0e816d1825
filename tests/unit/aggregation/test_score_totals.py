"""Totals of scores: exact sums of masked numbers, and what cannot be one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.aggregation.score_totals import MAX_CASES, masks_of, numbers_of, total_of
from fedfs.errors import TensorError
from fedfs.learner import ClassScore, EvaluationResult
from fedfs.trust.masks import MaskContext, as_text, from_text, words_in

CLASSES = ("lesion", "organ", "rare")
CONTEXT = MaskContext(study="s", track="t", version=3, site="a")


def result(n_cases: int, **dice: float | None) -> EvaluationResult:
    scores = {name: ClassScore(value) for name, value in dice.items()}
    return EvaluationResult(n_cases, scores, None, 0.0)


def total(results, n_cases=1000, *, masks=True):
    contexts = {f"s{i}": dataclasses.replace(CONTEXT, site=f"s{i}") for i in range(len(results))}
    seeds = {site: bytes([i]) * 32 for i, site in enumerate(contexts)}
    n = 3 + 2 * len(CLASSES)
    masked = {
        site: numbers_of(one, CLASSES) + masks_of([(seeds[site], contexts[site])], "full", n)
        for (site, _), one in zip(contexts.items(), results, strict=True)
    }
    known = masks_of(((seeds[site], contexts[site]) for site in contexts), "full", n)
    return total_of(masked, known if masks else known + np.uint32(2**30), CLASSES, n_cases)


DICE = st.one_of(st.none(), st.floats(0, 1))
SCORES = st.builds(result, st.integers(0, 50), lesion=DICE, organ=DICE)


@given(st.lists(SCORES, min_size=1, max_size=6))
def test_a_total_is_the_sum_over_sites(results):
    found = total(results)
    assert found.n_cases == sum(one.n_cases for one in results)
    for name in CLASSES:
        known = [(s.dice, one.n_cases) for one in results
                 if (s := one.classes.get(name)) and s.dice is not None]  # fmt: skip
        n = sum(cases for _, cases in known)
        assert (name in found.classes) == bool(n)
        if n:
            expected = sum(dice * cases for dice, cases in known)
            assert found.classes[name].n == n
            assert found.classes[name].total == pytest.approx(expected, abs=len(results) / 2**15)
    means = [(one.mean_dice, one.n_cases) for one in results if one.mean_dice is not None]
    assert found.mean.n == sum(n for _, n in means)
    assert found.mean.total == pytest.approx(
        sum(mean * n for mean, n in means), abs=len(results) / 2**15
    )
    found.check()


def test_a_class_counts_in_the_cases_where_it_occurs():
    by_case = {
        "1": {"organ": {"dice": 0.5}, "lesion": {"dice": 0.25}},
        "2": {"organ": {"dice": 0.75}, "lesion": {"volume_ml": 0.0}},
    }
    scored = dataclasses.replace(result(2, organ=0.625, lesion=0.25), by_case=by_case)
    found = total([scored, scored])
    assert (found.classes["organ"].total, found.classes["organ"].n) == (2.5, 4)
    assert (found.classes["lesion"].total, found.classes["lesion"].n) == (0.5, 2)


def test_what_cannot_be_a_total_is_none():
    scores = [result(10, organ=0.5), result(20, organ=0.25)]
    with pytest.raises(TensorError, match="a site has made up scores"):
        total(scores, n_cases=29)
    with pytest.raises(TensorError, match="is not that of the sites"):
        total(scores, masks=False)
    with pytest.raises(TensorError, match="does not fit"):
        total(scores, n_cases=MAX_CASES + 1)
    assert total(scores, n_cases=30).n_cases == 30


def test_masks_differ_by_variant_site_and_version():
    seed, n = bytes(32), 9
    contexts = [(CONTEXT, "full"), (CONTEXT, "pseudo")]
    contexts += [(dataclasses.replace(CONTEXT, site="b"), "full")]
    contexts += [(dataclasses.replace(CONTEXT, version=4), "full")]
    found = {as_text(masks_of([(seed, context)], variant, n)) for context, variant in contexts}
    assert len(found) == len(contexts)


def test_numbers_survive_as_text():
    numbers = np.array([0, 1, 2**32 - 1], dtype=np.uint32)
    assert from_text(as_text(numbers)).tolist() == numbers.tolist()
    assert [words_in(text) for text in (as_text(numbers), "", "AAA", "äöü!", "AAAAAAA=")] == [
        3, 0, -1, -1, -1,
    ]  # fmt: skip
