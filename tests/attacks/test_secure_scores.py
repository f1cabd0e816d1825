"""Who could see the scores of a single site, or spoil a total: each is refused, or named."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.errors import MalformedError, MisplacedError
from fedfs.protocol import layout
from fedfs.protocol.messages import EvaluationMessage, MaskSum, SumRequest
from fedfs.protocol.score_rules import fault_of_scores
from fedfs.trust.masks import as_text, from_text
from support.federation import HELPER, Federation, forge
from support.forgery import add, message_at, resign

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3, "west": 0.05}
SECURE = {"secure_sums": True, "secure_scores": True, "encryption": "age", "targets": TARGETS}
SCORES = layout.evaluation("north", 0, "pseudo")


def evaluated(folder) -> Federation:
    """A study of four sites that have scored the initial weights."""
    federation = Federation(folder, **SECURE, rounds=1).start()
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    return federation


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """The helper is asked; changed by no test."""
    federation = evaluated(tmp_path_factory.mktemp("waiting"))
    federation.run_process("aggregator")
    return federation


def scored(version: int, sites: str = "east north south west") -> dict[str, str]:
    return {layout.evaluation(site, version, "pseudo"): "of another request"
            for site in sites.split()}  # fmt: skip


REQUESTS = {
    "two sites": ({"pseudo": ("east", "north")}, {}, "it is of 2 sites; the charter wants 3"),
    "a model that nobody adds up": (
        {"full": tuple(TARGETS)}, {}, "nobody makes a total of full of version 0",
    ),
    "scores that were in a total": (
        {"pseudo": tuple(TARGETS)}, scored(0, "north"), "the scores of north were in a total",
    ),
    "one site less than before": (
        {"pseudo": ("east", "north", "south")}, scored(7), "would show one of fewer than 3 sites",
    ),
    "one site more than before": (
        {"pseudo": tuple(TARGETS)}, scored(7, "east north south"), "would show one of fewer than 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_the_helper_adds_no_masks_that_would_show_scores_of_a_site(waiting, name):
    sets, answered, says = REQUESTS[name]
    state = waiting.observe(HELPER).state
    faults = fault_of_scores(state, state.sum_requests[1], sets, answered)
    assert list(faults) == list(sets)
    assert says in " ".join(faults.values())


def test_totals_of_another_track_count_as_known(waiting):
    state, sites = waiting.observe(HELPER).state, tuple(TARGETS)
    request, elsewhere = state.sum_requests[1], {"pseudo": {frozenset(sites[:3])}}
    faults = fault_of_scores(state, request, {"pseudo": sites}, {}, elsewhere)
    assert "would show one of fewer than 3" in faults["pseudo"]
    assert fault_of_scores(state, request, {"pseudo": sites[:3]}, {}, elsewhere) == {}
    assert fault_of_scores(state, request, {"pseudo": sites}, {}, {"full": {frozenset("a")}}) == {}


def test_an_honest_request_has_no_fault(waiting):
    state = waiting.observe(HELPER).state
    sets = {variant: tuple(sites) for variant, sites in state.sum_requests[1].scores.items()}
    assert fault_of_scores(state, state.sum_requests[1], sets, scored(7)) == {}


def test_totals_of_the_last_version_are_all_over_the_same_sites(waiting):
    state, sites = waiting.observe(HELPER).state, tuple(TARGETS)
    key = layout.sum_request(2)
    request = SumRequest(key=key, version=2, updates=(), tensors={})
    state.digests[key] = ""
    sets = {"pseudo": sites[:3], "full": sites, "ema": sites[:3]}
    assert "several sets of sites" in fault_of_scores(state, request, sets, {})["full"]


def of_site(federation: Federation, **changes) -> bytes:
    return resign(federation, SCORES, "north", "site-north", **changes)


MESSAGES = {
    "scores that are not masked": (
        SCORES, lambda f: of_site(f, n_cases=3, mean_dice=0.5),
        MisplacedError, "of which the charter wants totals only",
    ),
    "a seed for the aggregator": (
        SCORES,
        lambda f: of_site(f, seed_for=f.observe().state.charter.aggregator_encryption_key),
        MisplacedError, "not the helper",
    ),
    "too few numbers": (
        SCORES, lambda f: of_site(f, masked=as_text(np.zeros(3, dtype=np.uint32))),
        MisplacedError, "does not hold 7 masked numbers",
    ),
    "no numbers": (
        SCORES, lambda f: of_site(f, masked="no base64!"),
        MisplacedError, "does not hold 7 masked numbers",
    ),
    "a request for nothing": (
        layout.sum_request(1),
        lambda f: resign(f, layout.sum_request(1), "coordinator", "aggregator",
                         updates=(), scores={}, tensors={}),
        MalformedError, "names no update",
    ),
    "a request for tensors of nobody": (
        layout.sum_request(1),
        lambda f: resign(f, layout.sum_request(1), "coordinator", "aggregator", updates=()),
        MalformedError, "tensors of no update",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_breaks_the_rules_is_refused(waiting, name):
    key, make, error, says = MESSAGES[name]
    with pytest.raises(error, match=says):
        add(waiting, key, make(waiting))


def test_a_bad_seed_costs_its_site_its_part_and_a_wrong_sum_the_total(tmp_path):
    federation = evaluated(tmp_path)
    forge(federation.place, SCORES, _with_seed(federation, "no base64!"))
    federation.kill("aggregator")
    for name in ("aggregator", HELPER, "aggregator", *TARGETS, "aggregator", HELPER):
        federation.run_process(name)
    state = federation.observe().state
    assert "cannot be decrypted" in state.mask_sums[1].scores_left_out["north"]
    assert state.rounds[1].scores["pseudo"].sites == ("east", "south", "west")
    assert len(state.rounds[1].updates) == len(TARGETS)
    answer, key = message_at(federation, layout.mask_sum(2), MaskSum), layout.mask_sum(2)
    wrong = {v: as_text(from_text(text) + np.uint32(2**31)) for v, text in answer.scores.items()}
    forge(federation.place, key, resign(federation, key, HELPER, "helper", scores=wrong))
    federation.kill("aggregator")
    federation.run_process("aggregator")
    total = federation.observe().state.finished.totals["full"]
    assert "cannot be: a site has made up scores" in total.fault
    assert (total.n_cases, total.classes) == (0, {})


def _with_seed(federation: Federation, seed: str) -> bytes:
    """The evaluation of north with another seed, its numbers readable by the aggregator only."""
    state = federation.observe().state
    numbers = state.evaluations["north", 0, "pseudo"].masked
    message = message_at(federation, SCORES, EvaluationMessage)
    assert not message.masked
    return resign(federation, SCORES, "north", "site-north", seed=seed, masked=numbers)
