"""The federation in memory, step by step: who does what, in which order."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.errors import StudyError
from fedfs.protocol import decide
from fedfs.protocol.actions import Evaluate, Prepare, PublishFingerprint, Train, Wait
from support.federation import INITIAL, Federation


def test_a_federation_runs_to_its_end(federation):
    federation.run()
    state = federation.observe().state
    assert sorted(state.models) == [0, 1, 2, 3]
    assert state.finished is not None
    assert state.finished.version == 3
    for learner in federation.learners.values():
        assert [call for call in learner.calls if call[0] in ("train", "evaluate", "finish")] == [
            ("evaluate", 0), ("train", 0), ("evaluate", 1), ("train", 1), ("evaluate", 2),
            ("train", 2), ("evaluate", 3), ("finish", 3),
        ]  # fmt: skip


def test_the_global_model_is_the_case_weighted_mean_of_the_updates(federation):
    federation.run()
    expected = {name: value.astype(np.float64) for name, value in INITIAL.items()}
    for _ in range(3):
        trained = [
            (
                {n: (v + (t.target - v) / 2).astype(np.float32) for n, v in expected.items()},
                t.n_cases,
            )
            for t in federation.learners.values()
        ]
        total = sum(n for _, n in trained)
        expected = {
            name: sum(w / total * tensors[name].astype(np.float64) for tensors, w in trained)
            for name in expected
        }
    got = federation.weights(3)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


def test_uniform_weighting_is_a_policy_of_the_charter(tmp_path):
    federation = Federation(tmp_path, weighting="uniform").start()
    federation.run()
    record = federation.observe().state.rounds[1]
    assert [update.weight for update in record.updates] == [1 / 3] * 3


def test_a_site_acts_in_order(federation):
    state = federation.observe().state
    assert decide.decide_site(state, "east", prepared=False) == PublishFingerprint()
    for site in federation.targets:
        federation.step(site)
    assert isinstance(decide.decide_site(federation.observe().state, "east", prepared=False), Wait)
    federation.step("aggregator")
    state = federation.observe().state
    assert decide.decide_site(state, "east", prepared=False) == Prepare()
    assert "initial weights" in decide.decide_site(state, "east", prepared=True).reason
    federation.step("aggregator")
    state = federation.observe().state
    assert decide.decide_site(state, "east", prepared=True) == Evaluate(0)
    assert federation.step("east").text.startswith("adopted the federated plan")
    assert federation.step("east").text.startswith("evaluated version 0")
    assert decide.decide_site(federation.observe().state, "east", prepared=True) == Train(0)


def test_the_aggregator_says_whom_it_waits_for(federation):
    assert "the fingerprint of east, north, south" in federation.step("aggregator").text
    federation.step("north")
    assert "the fingerprint of east, south" in federation.step("aggregator").text


def test_planning_waits_for_the_minimum_number_of_sites(tmp_path):
    federation = Federation(tmp_path, min_sites=3)
    federation.join()
    federation.approve("north", "east")
    federation.step("north")
    federation.step("east")
    assert "approve sites: 2 of 3" in federation.step("aggregator").text


def test_an_unapproved_site_is_told_whom_to_ask(tmp_path):
    federation = Federation(tmp_path)
    federation.join("north")
    with pytest.raises(StudyError, match="'north' is not approved") as caught:
        federation.step("north")
    assert "fedfs approve STORE north" in caught.value.hint


def test_a_site_that_was_away_goes_on_with_the_newest_version(federation):
    """South computes its updates on a process that then disappears for a version."""
    while federation.observe().state.newest < 1:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    federation.learners["south"].calls.clear()
    federation.kill("south")
    federation.run(seed=3)
    trained = [version for what, version in federation.learners["south"].calls if what == "train"]
    assert trained == sorted(set(trained))


def test_equal_inputs_give_equal_bytes(tmp_path):
    """Two aggregators that see the same updates write the same model."""
    payloads = []
    for name in ("a", "b"):
        federation = Federation(tmp_path / name).start()
        federation.run(seed=len(name))
        payloads.append({k for k in federation.place.objects if "/model-" in k})
    assert payloads[0] == payloads[1]
