"""Words say what intervals show, and no more."""

from __future__ import annotations

import pytest

from fedfs.aggregation.random_effects import RandomEffects
from fedfs.roles.reader.model_scores import Choice, Difference, ModelAtSite, Score
from fedfs.roles.reader.report import sentences
from fedfs.roles.reader.report.format import format_cases, format_sites


def difference(site, mean, half, **changes) -> Difference:
    values = {
        "site": site, "model": "full", "other": "local", "metric": "dice", "n": 14,
        "n_patients": 14, "mean": mean, "low": None if half is None else mean - half,
        "high": None if half is None else mean + half, "p": None, "needed": None,
        "needed_for_mean": None,
    }  # fmt: skip
    return Difference(**{**values, **changes})


def told(*rows, pooled=None) -> str:
    return " ".join(sentences.tell_pair(rows, pooled))


def at(site, model, mean, **changes) -> ModelAtSite:
    score = Score(
        **{"n": 14, "mean": mean, "sd": 0.1, "low": mean - 0.02, "high": mean + 0.02, **changes}
    )
    return ModelAtSite(site, model, 1.0, {"dice": score}, {})


GOOD = [difference(site, 0.03, 0.01) for site in ("north", "south", "west")]
SMALL = difference("east", 0.004, 0.015, needed=184, needed_for_mean=1123)


def test_what_is_shown_and_what_is_not():
    assert told(*GOOD, SMALL) == (
        "The federated model is better than the local model at 3 of 4 sites (north, south and "
        "west). At east no difference is shown: +0.004 (-0.011 to +0.019, 14 cases); to show a "
        "difference of 0.01, it would take about 180 cases, to show this one about 1,100."
    )


def test_worse_is_said_as_plainly_as_better():
    text = told(*GOOD, difference("east", -0.02, 0.01))
    assert text.endswith("It is worse at east, -0.020 (-0.030 to -0.010, 14 cases).")
    assert told(*(difference(site, -0.02, 0.01) for site in ("east", "north"))) == (
        "The federated model is worse than the local model at all 2 sites: east, -0.020 (-0.030 to "
        "-0.010, 14 cases); north, -0.020 (-0.030 to -0.010, 14 cases)."
    )
    text = told(difference("east", -0.02, 0.01), SMALL)
    assert text.startswith(
        "The federated model is not shown to be better than the local model at any of 2 sites. It "
        "is worse at east"
    )


def test_better_everywhere_names_no_site():
    assert told(*GOOD) == "The federated model is better than the local model at all 3 sites."


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            GOOD[0],
            (
                "The federated model is better than the local model at north: +0.030 (+0.020 to "
                "+0.040, 14 cases)."
            ),
        ),
        (
            difference("east", -0.03, 0.01),
            (
                "The federated model is worse than the local model at east: -0.030 (-0.040 to "
                "-0.020, 14 cases)."
            ),
        ),
        (
            SMALL,
            (
                "Between the federated model and the local model no difference is shown at east: "
                "+0.004 (-0.011 to +0.019, 14 cases); to show a difference of 0.01, it would take "
                "about 180 cases, to show this one about 1,100."
            ),
        ),
        (
            difference("east", 0.01, None, n=1, n_patients=1),
            (
                "Of the federated model and the local model at east there are too few cases for an "
                "interval: +0.010 (1 case)."
            ),
        ),
    ],
)
def test_one_site_has_a_sentence_of_its_own(row, text):
    assert told(row) == text


def test_sites_with_too_few_cases_are_said_to_have_them():
    few = [difference(site, 0.01, None, n=3, n_patients=3) for site in ("east", "north")]
    assert told(*few) == (
        "At no site are there enough cases to compare the federated model and the local model. Too "
        "few cases for an interval: east, +0.010 (3 cases); north, +0.010 (3 cases)."
    )
    assert told(*GOOD[:2], few[0]) == (
        "The federated model is better than the local model at 2 of 3 sites (north and south). Too "
        "few cases for an interval: east, +0.010 (3 cases)."
    )


def test_cases_of_one_patient_are_told_apart():
    row = difference("east", 0.004, 0.015, n=20, n_patients=9, needed=80)
    assert "(-0.011 to +0.019, 20 cases of 9 patients)" in told(row)
    assert told(row).endswith("it would take about 80 patients.")
    row = difference("east", 0.0, 0.015, n=3, n_patients=1)
    assert "3 cases of 1 patient)" in told(row)


def test_enough_cases_for_a_difference_that_matters_say_that_there_is_none():
    text = told(difference("east", 0.001, 0.005, needed=9, needed_for_mean=800))
    assert text.endswith(
        "; a difference of 0.01 would most likely have been shown; to show this one, it would "
        "take about 800 cases."
    )


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (2, "about 2"),
        (99, "about 99"),
        (184, "about 180"),
        (1123, "about 1,100"),
        (9999, "about 10,000"),
        (10**6, "more than 10,000"),
    ],
)
def test_numbers_of_cases_are_as_precise_as_a_plan(n, text):
    assert format_cases(n) == text


def test_over_sites_the_mean_and_how_much_they_differ():
    pooled = RandomEffects(4, 0, 0.012, -0.003, 0.027, 0.011, 9.5, 0.02, 0.68, -0.03, 0.054)
    text = told(*GOOD, SMALL, pooled=pooled)
    assert text.endswith(
        "Over 4 sites the mean difference is +0.012 (-0.003 to +0.027), so that none is shown on "
        "average; the sites differ by a standard deviation of 0.011 (I² 68 %). At a further site "
        "of the same kind it would be between -0.030 and +0.054."
    )
    alike = RandomEffects(2, 0, 0.012, 0.003, 0.021, 0.0, 0.5, 0.5, 0.0)
    assert told(*GOOD, pooled=alike).endswith(
        "the mean difference is +0.012 (+0.003 to +0.021); the sites differ no more than chance "
        "makes them."
    )


def test_sites_that_have_no_weight_are_counted():
    pooled = RandomEffects(2, 1, 0.012, 0.003, 0.021, 0.0, 0.5, 0.5, 0.0)
    assert "Over the 2 of 3 sites with a known spread the mean difference is +0.012" in told(
        *GOOD, pooled=pooled
    )


def test_of_many_sites_some_are_named():
    many = [difference(f"s{i:02}", 0.004, 0.01) for i in range(20)]
    text = told(*many, *GOOD)
    assert text.count("no difference is shown") == 6
    assert text.endswith("No difference is shown at 14 more sites.")
    assert format_sites([f"s{i}" for i in range(9)]) == "s0, s1, s2, s3, s4, s5 and 3 more"
    worse = told(*(difference(f"s{i}", -0.1, 0.01) for i in range(8)))
    assert worse.endswith("; and 2 more.")


def test_pairs_without_local_and_federated_are_told_too():
    rows = [difference("north", 0.1, 0.01, model="of-b", other="of-a")]
    (paragraph,) = sentences.tell_pairs(rows, {})
    assert paragraph.startswith("The model b is better than the model a at north: +0.100 (")


def test_models_of_other_sites_are_left_to_the_table_where_there_is_a_federated_one():
    rows = [
        difference("north", 0.1, 0.01),
        difference("north", 0.1, 0.01, model="of-b", other="full"),
    ]
    (paragraph,) = sentences.tell_pairs(rows, {})
    assert "model b" not in paragraph


def test_the_worst_and_the_best_site():
    rows = [at("north", "full", 0.86), at("east", "full", 0.78), at("east", "local", 0.5)]
    pooled = {"full": RandomEffects(2, 0, 0.82, 0.4, 1.0, 0.05, 9.0, 0.01, 0.89)}
    assert " ".join(sentences.tell_sites(rows, pooled)) == (
        "The federated model does worst at east: 0.780 (0.760 to 0.800, 14 cases). It does best at "
        "north: 0.860 (0.840 to 0.880, 14 cases). The mean of the federated model over 2 sites is "
        "0.820 (0.400 to 1.000); the sites differ by a standard deviation of 0.050 (I² 89 %)."
    )
    assert list(
        sentences.tell_sites([at("east", "full", 0.7, n=1, sd=None, low=None, high=None)], {})
    ) == ["Dice of the federated model at east: 0.700 (1 case)."]


def test_the_best_model_of_each_site_is_judged_on_other_cases():
    rows = [
        at("north", "full", 0.86),
        at("north", "personal", 0.87),
        at("east", "full", 0.78),
        at("east", "local", 0.7),
    ]
    choice = Choice("north", "personal", ("full", "personal"), 14, 0.861, 0.84, 0.88)
    assert list(sentences.tell_choices(rows, [choice])) == [
        "By mean Dice, the best is the federated model at east and the personal model at north.",
        (
            "The mean of the best flatters it, as the same cases chose it. On cases that did not "
            "choose, the chosen model reaches: north, 0.861 (0.840 to 0.880, 14 cases)."
        ),
    ]
    assert list(sentences.tell_choices(rows[:1], [])) == []


def test_of_few_cases_no_model_is_called_the_best():
    rows = [at("north", model, 0.8, n=4) for model in ("local", "full")]
    assert list(sentences.tell_choices(rows, [])) == []


def test_the_number_of_intervals_is_told_and_that_none_allows_for_the_others():
    many = [difference(f"s{i}", 0.1, 0.01, n=40, n_patients=40) for i in range(4)]
    (text,) = sentences.tell_intervals(many)
    assert text.startswith("There are 4 intervals of differences of Dice, each of 95 % by itself")
    assert list(sentences.tell_intervals(many[:1])) == []
    assert list(sentences.tell_intervals([*many[:1], difference("x", 0.1, None)])) == []


def test_intervals_of_few_patients_are_said_to_be_short():
    (text,) = sentences.tell_intervals([SMALL])
    assert text.startswith("Intervals of few patients are too short")


def test_nothing_known_says_nothing():
    assert list(sentences.tell_pairs([], {})) == []
    assert list(sentences.tell_sites([], {})) == []
    assert list(sentences.tell_choices([], [])) == []
    assert list(sentences.tell_exclusions([])) == []
