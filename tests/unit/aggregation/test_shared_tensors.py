"""Asymmetric averaging as a study uses it: unlike networks, private tensors, coverage."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fedfs.aggregation import alignment
from fedfs.aggregation.shared_tensors import check_site_plan, shared_by, tensor_participation
from fedfs.errors import MalformedError, SetupError, StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import SitePlan
from fedfs.roles.reader.status import summarize
from fedfs.tensors.canonical import TensorFile
from support.dying_store import calls_of, kills, run_with_a_kill
from support.federation import Federation, network_of
from support.unlike_networks import DEEP, NETWORKS, SHALLOW, TARGETS, WIDE


def make(folder, **options) -> Federation:
    settings = {"mode": "asym", "min_coverage": 0.1, **options}
    return Federation(folder, targets=TARGETS, networks=NETWORKS, **settings).start()


@pytest.fixture
def finished(tmp_path) -> Federation:
    federation = make(tmp_path)
    federation.run()
    return federation


def names(site: str, policy: str = "resolution") -> dict[str, str]:
    return alignment.own_names({n: tuple(s) for n, s in NETWORKS[site].items()}, policy)


def test_every_tensor_is_averaged_over_the_sites_that_have_it_in_that_shape(finished):
    """One round by hand: half way to each site's target, weighted by cases."""
    before, after = finished.weights(0), finished.weights(1)
    shared = shared_by(finished.observe().state)
    assert set(before) == set(after) == set(shared)
    n_cases = {site: learner.n_cases for site, learner in finished.learners.items()}
    for name, sites in shared.items():
        assert list(sites) == [s for s in sorted(NETWORKS) if name in names(s)]
        total = sum(n_cases[s] for s in sites)
        wanted = sum(
            n_cases[s] / total * (before[name] + (TARGETS[s] - before[name]) / 2) for s in sites
        )
        np.testing.assert_allclose(after[name], wanted, rtol=1e-6, atol=1e-7)
    assert set(shared["encoder.stages.1.0.conv.weight@8x4x3x3"]) == {"east", "north", "south"}
    # The last head of a net of any depth is the one at full resolution.
    assert len(shared["decoder.seg_layers.r0.bias@2"]) == 4
    assert shared["decoder.seg_layers.r1.bias@2"] == ("east", "north")


def test_equal_tensors_start_from_equal_values_and_all_sites_see_the_same_version(finished):
    for version in range(3):
        published = finished.weights(version)
        for site, learner in finished.learners.items():
            for canonical, own in names(site).items():
                if canonical in published:
                    np.testing.assert_array_equal(learner.seen[version][own], published[canonical])


def test_private_tensors_never_leave_and_live_on_at_the_site(finished):
    store = finished.place
    for key, found in store.objects.items():
        assert b"only.here" not in found.data or key == layout.site_plan("west"), key
    own, learner = "only.here", finished.learners["west"]
    value = network_of(WIDE)[own]
    for version in range(3):
        np.testing.assert_array_equal(learner.seen[version][own], value)
        value = value + (learner.target - value) / 2


def test_the_fingerprint_does_not_leave_the_site(finished):
    kinds = {layout.parse(key).kind for key in finished.place.objects}
    assert "fingerprint" not in kinds
    assert finished.observe().state.plan.fingerprint == {}


def test_the_round_record_says_who_took_part_in_each_tensor(finished):
    state = finished.observe().state
    assert state.rounds[2].participation == state.plan.shared
    without_south = tensor_participation(state, ["east", "north", "west"])
    by_name = {name: p.sites for p in without_south for name in p.tensors}
    assert by_name["encoder.stages.1.0.conv.weight@8x4x3x3"] == ("east", "north")
    assert by_name["encoder.stages.0.0.conv.weight@4x1x3x3"] == ("east", "north", "west")


def test_intersection_shares_only_what_all_sites_have(tmp_path):
    federation = make(tmp_path, sharing="intersection", min_coverage=0.0)
    federation.run()
    assert set(federation.weights(3)) == {
        "encoder.stages.0.0.conv.weight@4x1x3x3",
        "decoder.seg_layers.r0.bias@2",
    }
    assert federation.observe().state.finished is not None


def test_alignment_by_name_pairs_other_heads(tmp_path):
    federation = make(tmp_path, alignment="name")
    federation.run()
    shared = shared_by(federation.observe().state)
    assert shared["decoder.seg_layers.1.bias@2"] == ("east", "north")


def test_sites_that_would_share_too_little_stop_the_study_with_an_error_that_names_them(tmp_path):
    federation = make(tmp_path, min_coverage=0.9)
    for site in TARGETS:
        federation.run_process(site)
    with pytest.raises(StudyError, match=r"less .* 90.0% .*: west 10\.4%") as caught:
        federation.step("aggregator")
    assert "--min-coverage" in caught.value.hint
    assert federation.observe().state.plan is None


def test_a_study_of_equal_networks_gives_what_one_plan_would(tmp_path):
    shapes = {"a": [2, 3], "b": [4]}
    runs = []
    for mode in ("asym", "ffe"):
        federation = Federation(
            tmp_path / mode, mode=mode, networks=dict.fromkeys(("east", "north", "south"), shapes)
        ).start()
        federation.run()
        runs.append(federation)
    asym = runs[0].weights(3)
    assert set(asym) == {"a@2x3", "b@4"}
    state = runs[0].observe().state
    assert set(state.plan.coverage.values()) == {1.0}
    assert [u.weight for u in state.rounds[3].updates] == [
        u.weight for u in runs[1].observe().state.rounds[3].updates
    ]


@pytest.mark.parametrize("encoding", ["topk", "int8"])
def test_unlike_networks_and_lossy_encodings_go_together(tmp_path, encoding):
    federation = make(tmp_path, encoding=encoding, model_encoding=encoding, rounds=4)
    federation.run()
    assert federation.observe().state.finished.version == 4


@pytest.mark.parametrize("strategy", ["FedAdam", "Krum", "FedTrimmedAvg"])
def test_unlike_networks_and_strategies_go_together(tmp_path, strategy):
    federation = make(tmp_path, strategy=strategy)
    federation.run()
    assert federation.observe().state.finished.version == 3


@pytest.mark.parametrize("victim", ["aggregator", "west"])
def test_a_kill_at_a_store_call_changes_nothing(tmp_path, victim):
    whole = make(tmp_path / "whole", rounds=2)
    calls = calls_of(whole, victim, partial(whole.run, seed=1))
    wanted = {v: m.weights_sha256 for v, m in whole.observe().state.models.items()}
    for k, after in kills(calls, few=True):
        federation = make(tmp_path / f"{k}-{after}", rounds=2)
        assert run_with_a_kill(federation, partial(federation.run, seed=1), victim, k, after=after)
        state = federation.observe().state
        found = {v: m.weights_sha256 for v, m in state.models.items()}
        assert found == wanted, f"killed at call {k}, {calls[k - 1]}"
        assert not state.rejected


def test_lost_private_tensors_start_anew_and_say_so(tmp_path, caplog):
    federation = make(tmp_path)
    while ("west", 0) not in federation.observe().state.updates:
        for name in ("aggregator", *TARGETS):
            federation.step(name)
    for path in (federation.home("west") / "work").glob("kept-*"):
        path.unlink()
    federation.kill("west")
    federation.run()
    assert "private tensors are lost" in caplog.text
    np.testing.assert_array_equal(
        federation.learners["west"].seen[1]["only.here"], network_of(WIDE)["only.here"]
    )


def test_a_site_whose_plan_has_changed_stops(tmp_path):
    federation = make(tmp_path)
    for name in (*TARGETS, "aggregator"):
        federation.run_process(name)
    federation.kill("west")
    federation.learners["west"].network = network_of(DEEP)
    for name in federation.home("west").glob("work/kept-*"):
        name.unlink()
    with pytest.raises(SetupError, match="another plan than this site has published"):
        federation.run_process("west")


def test_a_site_that_announces_another_network_than_its_plan_gives_is_named(tmp_path):
    federation = make(tmp_path)
    for site in ("east", "north", "south"):
        federation.run_process(site)
    shapes = {name: tuple(shape) for name, shape in SHALLOW.items()}
    federation.publisher("site-west", "west").publish(
        SitePlan(
            key=layout.site_plan("west"),
            site="west",
            n_cases=5,
            configuration={"tensors": DEEP},
            tensors=shapes,
            plans_sha256="0" * 64,
            versions={},
        )
    )
    federation.step("aggregator")
    state = federation.observe().state
    first = {sites[0] for sites in shared_by(state).values()}
    assert "west" not in first  # nobody starts from its values
    renamed = Federation(
        tmp_path / "first",
        targets={"a": 1.0, "b": 2.0},
        networks={"a": DEEP, "b": DEEP},
        mode="asym",
        min_coverage=0.0,
    ).start()
    renamed.run_process("b")
    renamed.publisher("site-a", "a").publish(
        SitePlan(
            key=layout.site_plan("a"),
            site="a",
            n_cases=5,
            configuration={"tensors": SHALLOW},
            tensors={n: tuple(s) for n, s in DEEP.items()},
            plans_sha256="0" * 64,
            versions={},
        )
    )
    renamed.step("aggregator")
    with pytest.raises(StudyError, match="The plan of a leads to another network"):
        renamed.step("aggregator")


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "lists 0 tensors"),
        ({"a": (-1,)}, "negative"),
        ({"a": (10**6, 10**6)}, "more than 2,000,000,000"),
    ],
)
def test_an_unreasonable_list_of_tensors_is_refused(tensors, says):
    plan = SitePlan(
        study="s", key="k", created_at="", site="a", n_cases=1, configuration={},
        tensors=tensors, plans_sha256="", versions={},
    )  # fmt: skip
    with pytest.raises(MalformedError, match=says):
        check_site_plan(plan)


def test_an_update_with_a_tensor_that_the_site_does_not_share_is_left_out(finished, tmp_path):
    federation = make(tmp_path / "again")
    for name in (*TARGETS, "aggregator"):
        federation.run_process(name)
    process = federation.process("west")
    share = process._networks.load(0, federation.observe().state)
    extra = {**share.share.own, "only.here@5": "only.here"}
    object.__setattr__(share.share, "own", extra)
    object.__setattr__(
        share, "shared", {**share.shared, "only.here@5": network_of(WIDE)["only.here"]}
    )
    federation.run_process("west")
    for name in ("east", "north", "south", "aggregator"):
        federation.run_process(name)
    left_out = federation.observe().state.rounds[1].excluded
    assert [e.site for e in left_out] == ["west"]
    assert "only.here@5' is unexpected" in left_out[0].reason
    assert "only.here@5" not in federation.weights(1)


def test_status_says_how_much_each_site_shares(finished):
    view = summarize(finished.observe().state)
    assert view.mode == "asym"
    sites = {site.site: site.coverage for site in view.sites}
    assert sites["south"] == 1.0
    assert 0.1 < sites["west"] < sites["east"] == 1.0


def test_version_0_is_the_first_sites_own_initialisation(finished):
    with_name = names("east")
    initial = network_of(DEEP)
    for canonical, value in finished.weights(0).items():
        if canonical in with_name:
            np.testing.assert_array_equal(value, initial[with_name[canonical]])


def test_an_update_holds_only_what_the_site_shares(finished):
    state = finished.observe().state
    shared = shared_by(state)
    for (site, _), update in state.updates.items():
        path = finished.folder / "payload.safetensors"
        path.write_bytes(finished.place.objects[update.payload.key].data)
        with TensorFile(path) as file:
            assert set(file.names) == {name for name, sites in shared.items() if site in sites}
