"""Models beside each other: over all sites, in words, and in a page that shows intervals."""

from __future__ import annotations

import csv
import dataclasses
import io
import re

import pytest

from fedfs.roles.reader.report.comparison import compare
from fedfs.roles.reader.report.curves import curves
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.report.tables import write_models_csv
from support.browser import accessibility, in_a_browser
from support.federation import Federation
from support.given_models import evaluation
from support.scored_models import FOUR_SITES, with_models

TARGETS = {"east": 1.0, "north": 2.0, "south": -3.0, "west": 0.5}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("hosts"), targets=TARGETS, rounds=1).start()
    federation.run()
    observer = federation.observe()
    state = observer.refresh(everything=True)
    return with_models(state, FOUR_SITES), observer.sizes


@pytest.fixture(scope="module")
def report(scored):
    return collect(*scored)


@pytest.fixture(scope="module")
def page(report):
    return render(report, made_at="2027-01-15T08:00:00Z")


def only(state, sites, models):
    """The state in which these sites have scored these models, and nobody anything else."""
    return with_models(state, {s: {m: FOUR_SITES[s][m] for m in models} for s in sites})


def test_the_mean_over_sites_of_each_model_and_pair(scored):
    found = compare(scored[0])
    assert [row.model for row in found.pooled] == ["local", "full", "personal"]
    assert [(row.model, row.other) for row in found.pooled_differences] == [
        ("full", "local"), ("personal", "local"), ("personal", "full"),
    ]  # fmt: skip
    full = found.pooled[1]
    means = [row.dice.mean for row in found.models if row.model == "full"]
    assert (full.lowest, full.highest) == (min(means), max(means))
    assert full.lowest < full.effects.mean < full.highest
    assert full.effects.next_high == 1.0
    assert full.effects.n_sites == 4
    assert found.best == {
        "east": "personal", "north": "full", "south": "personal", "west": "personal",
    }  # fmt: skip


def test_the_words_come_with_the_numbers(report, page):
    first = report.comparison.paragraphs[0]
    assert first.startswith(
        "The federated model is better than the local model at 2 of 4 sites (north and south). It "
        "is worse at west"
    )
    assert "At east no difference is shown: +0.003" in first
    for paragraph in report.comparison.paragraphs:
        assert paragraph.replace("'", "&#39;") in page
    answer = re.search(r'<p class="answer">(.*?)</p>', page, re.DOTALL)[1]
    assert "The federated model is better than the local model at 2 of 4 sites" in answer
    assert "It is worse at west" in answer


def test_every_number_of_a_bar_stands_beside_it(report, page):
    for row in report.comparison.models:
        assert (
            f"<td>{row.dice.mean:.3f}</td><td>{row.dice.low:.3f} to {row.dice.high:.3f}</td>"
            in page
        )
    for row in report.comparison.of_dice:
        assert f"<td>{row.mean:+.3f}</td><td>{row.low:+.3f} to {row.high:+.3f}</td>" in page
    assert page.count('<svg class="bar"') == 4 * 3 + 3 + 4 * 3 + 3
    assert "personal, best" in page
    assert "How much sites differ" in page
    assert "HD95, mm" in page


def test_the_tolerance_of_surfaces_stands_with_the_metric(scored):
    state, sizes = scored

    def name(*tolerances):
        messages = dict(state.evaluations)
        keys = [key for key in messages if key[2] == "full"][: len(tolerances)]
        for key, mm in zip(keys, tolerances, strict=True):
            metrics = {**messages[key].metrics, "nsd": messages[key].metrics["dice"]}
            changes = {"metrics": metrics, "nsd_tolerance_mm": mm}
            messages[key] = dataclasses.replace(messages[key], **changes)
        shown = render(collect(dataclasses.replace(state, evaluations=messages), sizes), made_at="")
        return re.search(r">(Surface Dice[^<]*)<", shown)[1]

    assert name(1.5, 1.5) == "Surface Dice (NSD) at 1.5 mm"
    assert name(1.5, 3.0) == "Surface Dice (NSD), tolerances of sites differ"
    assert name(None) == "Surface Dice (NSD)"


def test_one_site_and_one_model(scored):
    state, sizes = scored
    one = collect(only(state, ["north"], ["full"]), sizes)
    assert one.comparison.pooled == ()
    assert one.comparison.paragraphs == (
        "Dice of the federated model at north: 0.880 (0.848 to 0.912, 6 cases).",
    )
    assert "Differences between models" not in render(one, made_at="now")


def test_two_sites_of_two_models(scored):
    state, sizes = scored
    two = collect(only(state, ["east", "north"], ["local", "full"]), sizes)
    (pair,) = two.comparison.pooled_differences
    assert pair.effects.next_low is None
    assert "At a further site" not in " ".join(two.comparison.paragraphs)
    assert render(two, made_at="now")


def test_given_models_are_compared_in_a_study_that_trains_nothing(tmp_path):
    federation = evaluation(tmp_path, min_sites=2).start()
    federation.run()
    observer = federation.observe()
    report = collect(observer.refresh(everything=True), observer.sizes)
    assert {(row.model, row.other) for row in report.comparison.of_dice} == {
        ("of-theirs", "of-ours")
    }
    assert "The model theirs is " in report.comparison.paragraphs[0]
    assert all(abs(row.effects.next_low) <= 1 for row in report.comparison.pooled_differences)
    assert report.comparison.paragraphs[0] in render(report, made_at="now")


def test_nothing_scored(scored):
    state, sizes = scored
    none = collect(with_models(state, {}), sizes)
    assert none.comparison.paragraphs == ()
    assert 'id="comparison"' not in render(none, made_at="now")


def test_old_scores_without_a_distribution_have_a_page(scored):
    state, sizes = scored
    plain = {
        key: dataclasses.replace(one, metrics={}, metrics_by_class={}, against={}, chosen=None)
        for key, one in state.evaluations.items()
    }
    report = collect(dataclasses.replace(state, evaluations=plain), sizes)
    assert report.comparison.pooled == report.comparison.differences == ()
    page = render(report, made_at="now")
    assert "Local against federated" in page
    assert "no intervals known" in page


def test_the_csv_of_models_has_a_line_for_each_metric(report):
    file = io.StringIO()
    write_models_csv(report.comparison, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    models = [row for row in rows if not row["minus"]]
    assert len([row for row in models if row["class"] == ""]) == 4 * 3 * 2
    (row,) = [r for r in rows if (r["site"], r["model"], r["minus"]) == ("east", "full", "local")]
    assert float(row["mean"]) == pytest.approx(report.comparison.of_dice[0].mean)
    assert float(row["low"]) < 0 < float(row["high"])
    assert (row["n"], row["patients"], row["p"]) == ("6", "6", "0.03")


def test_curves_for_other_viewers_have_each_model(report):
    last = curves(report)["sites/north"][-1]
    assert last["model_dice/personal"] == pytest.approx(0.88, abs=0.01)
    assert curves(report)["global"][-1].keys() >= {"model_dice/full", "model_dice/local"}


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(page, tmp_path, scheme):
    found = accessibility(page, tmp_path, scheme)
    assert found["dark"] == (scheme == "dark")
    assert found["violations"] == []
