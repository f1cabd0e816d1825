"""Scores of single cases: kept at the site, and published as distributions and differences."""

from __future__ import annotations

import json

import pytest

from fedfs.aggregation.case_statistics import over_classes
from fedfs.roles.site.score_files import ScoreFiles
from fedfs.trust.signing import Envelope
from support.federation import N_VALIDATED, Federation


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Federation:
    federation = Federation(
        tmp_path_factory.mktemp("study"), alone=("north", "south"), publish_cases=("south",)
    ).start()
    federation.run()
    return federation


def evaluation(federation, site, variant):
    return federation.observe().state.evaluations[site, 3, variant]


def kept(federation, site):
    return ScoreFiles(federation.home(site) / "work" / "scores").of_version(3)


def test_a_full_validation_publishes_distributions_over_cases(finished):
    message = evaluation(finished, "north", "full")
    assert set(message.metrics) == {"dice", "nsd", "hd95_mm"}
    assert message.metrics_by_class == {"organ": message.metrics}
    dice = message.metrics["dice"]
    assert (dice.n, len(dice.quartiles)) == (N_VALIDATED, 3)
    found = over_classes(kept(finished, "north")["full"].by_case)["dice"]
    assert dice.mean == pytest.approx(sum(found.values()) / N_VALIDATED)
    assert message.nsd_tolerance_mm == 1.0


def test_random_patches_have_no_cases(finished):
    message = evaluation(finished, "north", "pseudo")
    assert (message.metrics, message.against, message.chosen) == ({}, {}, None)


def test_what_is_scored_later_is_compared_with_what_was_scored_before(finished):
    full, local = (evaluation(finished, "north", variant) for variant in ("full", "local"))
    assert (full.against, full.chosen) == ({}, None)
    found = local.against["full"]["dice"]
    one, other = (
        over_classes(kept(finished, "north")[variant].by_case)["dice"]
        for variant in ("local", "full")
    )
    differences = [one[case] - other[case] for case in one]
    assert found.mean == pytest.approx(sum(differences) / N_VALIDATED)
    assert (found.n, found.n_patients) == (N_VALIDATED, N_VALIDATED - 1)
    assert found.low < found.mean < found.high
    assert set(local.against["full"]) == {"dice", "nsd", "hd95_mm"}


def test_the_best_of_what_was_scored_is_chosen(finished):
    full, local = (evaluation(finished, "north", variant) for variant in ("full", "local"))
    assert local.chosen.among == ("full", "local")
    better = max((full, local), key=lambda message: message.metrics["dice"].mean)
    assert local.chosen.variant == better.variant
    assert local.chosen.low <= local.chosen.dice <= local.chosen.high


def test_single_cases_are_published_by_the_site_that_wants_to_and_without_names(finished):
    assert evaluation(finished, "north", "full").cases == ()
    for variant in ("full", "local"):
        message = evaluation(finished, "south", variant)
        by_case = over_classes(kept(finished, "south")[variant].by_case)["dice"]
        assert len(message.cases) == N_VALIDATED
        order = [next(c for c, d in by_case.items() if d == row["dice"]) for row in message.cases]
        assert order == ScoreFiles(finished.home("south") / "work" / "scores").in_order(by_case)
    assert "case-" not in json.dumps([dict(row) for row in message.cases])


def test_no_name_of_a_case_or_patient_is_on_the_store(finished):
    payloads = [
        Envelope(found.data).payload
        for key, found in finished.store.objects.items()
        if key.endswith(".json")
    ]
    assert any(b'"nsd"' in payload for payload in payloads)
    for payload in payloads:
        assert b"case-" not in payload
        assert b"patient-" not in payload


def test_scored_again_a_variant_says_the_same(finished):
    site = finished.make_site("north")
    learner = finished.alone["north"]
    weights = finished.weights(3)
    result = learner.finish(learner.tasks[-1], weights, lambda _: None)
    cases = site._scoring._cases
    first = cases.fields(3, "local", result, learner.patients())
    assert cases.fields(3, "local", result, learner.patients()) == first
