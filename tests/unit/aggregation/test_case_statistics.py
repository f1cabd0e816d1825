"""What is said about a site's cases, and from how many on."""

from __future__ import annotations

import pytest

from fedfs.aggregation.case_statistics import (
    COMPARED,
    best,
    differences,
    distributions,
    distributions_by_class,
    over_classes,
    rows,
)


def scores(n, shift=0.0, **more):
    return {
        f"case-{i}": {"organ": {"dice": 0.5 + i / 100 + shift, "volume_ml": 10.0 + i, **more}}
        for i in range(n)
    }


def test_a_case_counts_with_the_mean_of_the_classes_in_which_a_metric_is_defined():
    found = over_classes(
        {
            "a": {"organ": {"dice": 0.5, "hd95_mm": 4.0}, "lesion": {"dice": 0.7}},
            "b": {"organ": {"dice": 0.9}, "lesion": {}},
            "c": {"organ": {}, "lesion": {}},
        }
    )
    assert found == {"dice": {"a": 0.6, "b": 0.9}, "hd95_mm": {"a": 4.0}}


def test_metrics_that_nobody_knows_are_left_out():
    assert over_classes({"a": {"organ": {"beauty": 1.0}}}) == {}


@pytest.mark.parametrize(("n", "said", "quartiles"), [(2, 0, 0), (3, 1, 0), (9, 1, 0), (10, 1, 3)])
def test_of_few_cases_less_is_said(n, said, quartiles):
    found = distributions(scores(n))
    assert len(found) == 2 * said
    assert len(distributions_by_class(scores(n))) == said
    for summary in found.values():
        assert (summary.n, len(summary.quartiles)) == (n, quartiles)


def test_a_class_has_the_cases_in_which_it_occurs():
    of = scores(5)
    of["case-0"]["lesion"] = {"dice": 0.1}
    assert set(distributions_by_class(of)) == {"organ"}
    of |= {f"more-{i}": {"lesion": {"dice": 0.2}} for i in range(3)}
    assert distributions_by_class(of)["lesion"]["dice"].n == 4


def test_models_are_compared_by_what_says_how_good_they_are():
    one, other = scores(6, 0.1, reference_volume_ml=1.0), scores(6, reference_volume_ml=1.0)
    found = differences(one, other, {}, 1)
    assert set(found) == {"dice"}
    assert found["dice"].mean == pytest.approx(0.1)
    assert differences(one, scores(2), {}, 1) == {}
    assert "false_positives" in COMPARED


def test_the_best_model_is_chosen_by_dice_of_all_classes():
    by_variant = {"full": scores(6), "personal": scores(6, 0.1), "empty": {}}
    found = best(by_variant, {}, 1)
    assert found is not None
    assert (found.variant, found.among, found.n) == ("personal", ("full", "personal"), 6)
    assert best({"full": scores(2), "personal": scores(2)}, {}, 1) is None


def test_rows_have_no_names_and_the_order_that_is_asked_for():
    found = rows(scores(3), ["case-2", "case-0"])
    assert found == ({"dice": 0.52, "volume_ml": 12.0}, {"dice": 0.5, "volume_ml": 10.0})
