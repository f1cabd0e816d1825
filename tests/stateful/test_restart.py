"""Any process may die at any call to the store and be started again.

A store wrapper dies at its k-th call, before or after the call took effect (the latter is a lost
acknowledgement): at each kind of call, and with ``FEDFS_SLOW_TESTS=1`` at every call. A fresh
process then goes on; the federation must end as if nothing had happened. These are the invariants
of ``docs/protocol.md``, section "Invariants".
"""

from __future__ import annotations

import itertools
import shutil
from functools import partial

import pytest

from fedfs.errors import StoreError
from fedfs.protocol import layout
from fedfs.roles.reader.status import summarize
from fedfs.roles.site.fine_tuning import FineTuning
from support import invariants
from support.dying_store import DyingStore, KilledError, calls_of, kills
from support.federation import HELPER, Federation, forge
from support.slow import SLOW

TWO = {"east": 1.0, "north": 2.0}


POLICIES = {
    "all": {},
    "quorum": {"policy": "quorum", "policy_options": {"sites": 1, "deadline_minutes": 1}},
    "buffer": {"policy": "buffer", "policy_options": {"size": 2}},
}


def models_and_updates(federation: Federation) -> set[str]:
    return {key for key in federation.place.objects if layout.parse(key).is_payload}


def check_invariants(federation: Federation) -> None:
    state = federation.observe().state
    assert not state.rejected
    invariants.check(state)
    assert state.finished is not None
    assert not state.waiting


def take_turns(
    federation: Federation, victim: str = "", k: int = 0, *, after: bool = False
) -> bool:
    """Let everybody do in turn what can be done; return whether the victim was killed.

    A killed process is started again in its own turn, so that all meet the same messages as if
    nobody had been killed.
    """
    others = [name for name in federation.names if name not in federation.targets]
    names, finished = [*federation.targets, *others], set()
    for name in itertools.islice(itertools.cycle(names), 60):
        if name in finished:
            continue
        if name == victim and k and name not in federation.processes:
            store = DyingStore(federation.store, k, after=after)
            try:
                federation.processes[name] = federation.new_process(name, store)
            except KilledError:
                k = 0
        while True:
            try:
                outcome = federation.run_process(name)
                break
            except KilledError:
                k = 0
                federation.kill(name)
        if outcome.finished:
            finished.add(name)
        if len(finished) == len(names):
            return k == 0
    raise AssertionError("the federation did not finish")


@pytest.mark.parametrize("victim", ["aggregator", "north"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_kill_at_each_kind_of_store_call_changes_nothing(tmp_path, policy, victim):
    """In turn, where the policy is the only difference: with one policy also at reads."""
    options = {"targets": TWO, "rounds": 2, **POLICIES[policy]}
    undisturbed = Federation(tmp_path / "undisturbed", **options).start()
    calls = calls_of(undisturbed, victim, partial(take_turns, undisturbed))
    for k, after in kills(calls, few=policy != "all"):
        federation = Federation(tmp_path / f"{k}-{after}", **options)
        assert take_turns(federation.start(), victim, k, after=after)
        check_invariants(federation)
        same = models_and_updates(federation) == models_and_updates(undisturbed)
        assert same, f"killed at call {k}, {calls[k - 1]}"


def test_each_kind_of_write_and_read_is_among_the_kills(tmp_path):
    """A kind that is no longer seen would no longer be tested."""
    for victim, written in (
        ("aggregator", {"plan", "model-payload", "model", "round", "finished"}),
        ("north", {"fingerprint", "update-payload", "update", "evaluation"}),
    ):
        federation = Federation(tmp_path / victim, targets=TWO).start()
        calls = calls_of(federation, victim, partial(take_turns, federation))
        killed = {(*calls[k - 1], after) for k, after in kills(calls)}
        assert {call[:2] for call in killed} == set(calls)
        for kind in written:
            names = {(name, after) for name, one, after in killed if one == kind}
            assert len(names & {("create", False), ("upload", False)}) == 1
            assert len(names & {("create", True), ("upload", True)}) == 1


@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_on_any_track_changes_nothing(tmp_path, victim):
    """Two configurations, and the choice between them."""
    options = {"targets": TWO, "rounds": 1, "configuration": "2d,3d_fullres"}
    undisturbed = Federation(tmp_path / "undisturbed", **options).start()
    for k, after in kills(
        calls_of(undisturbed, victim, partial(take_turns, undisturbed)), few=True
    ):
        federation = Federation(tmp_path / f"{k}-{after}", **options)
        assert take_turns(federation.start(), victim, k, after=after)
        for track in federation.tracks:
            state, expected = (one.observe(track=track).state for one in (federation, undisturbed))
            invariants.check(state)
            assert not state.rejected
            assert state.models[1].weights_sha256 == expected.models[1].weights_sha256
        chosen = federation.observe().state.choice
        assert chosen.dice == undisturbed.observe().state.choice.dice, f"killed at call {k}"


@pytest.mark.parametrize(
    ("victim", "kinds"),
    [
        ("aggregator", ("sum-request", "round")),
        (HELPER, ("mask-sum-payload", "mask-sum")),
        ("north", ("update-payload", "update")),
    ],
)
def test_a_kill_changes_no_secure_sum(tmp_path, victim, kinds):
    """Seeds and ciphertexts are others after it; sums are the same, to the last bit."""
    targets = {"east": 0.1, "north": 0.2, "south": -0.3}
    options = {
        "targets": targets, "rounds": 1, "secure_sums": True, "secure_scores": True,
        "encryption": "age",
    }  # fmt: skip
    undisturbed = Federation(tmp_path / "undisturbed", **options).start()
    calls = calls_of(undisturbed, victim, partial(take_turns, undisturbed))
    chosen = [(k, after) for k, after in kills(calls, few=True) if SLOW or calls[k - 1][1] in kinds]
    assert len(chosen) >= len(kinds)
    for k, after in chosen:
        federation = Federation(tmp_path / f"{k}-{after}", **options)
        assert take_turns(federation.start(), victim, k, after=after)
        check_invariants(federation)
        state, expected = federation.observe().state, undisturbed.observe().state
        same = state.models[1].weights_sha256 == expected.models[1].weights_sha256
        assert same, f"killed at call {k}, {calls[k - 1]}"
        assert len(state.rounds[1].updates) == len(targets)
        assert state.rounds[1].scores == expected.rounds[1].scores
        assert state.finished.totals == expected.finished.totals
        assert state.finished.totals["full"].sites == tuple(targets)


@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_changes_none_of_the_models_that_sites_have_beside_the_last_version(
    tmp_path, victim
):
    """Own normalisation layers, averages, a local and a personal model."""
    options = {
        "targets": TWO, "rounds": 2, "keep_local": "norm", "average_last": 2, "ema": 0.5,
        "alone": ("north",), "personal": {"north": FineTuning()}, "publishes_personal": ("north",),
    }  # fmt: skip
    undisturbed = Federation(tmp_path / "undisturbed", **options).start()
    calls = calls_of(undisturbed, victim, partial(take_turns, undisturbed))
    expected = undisturbed.observe().state
    for k, after in kills(calls, few=True):
        federation = Federation(tmp_path / f"{k}-{after}", **options)
        assert take_turns(federation.start(), victim, k, after=after)
        check_invariants(federation)
        state = federation.observe().state
        assert models_and_updates(federation) == models_and_updates(undisturbed), k
        assert state.evaluations.keys() == expected.evaluations.keys()
        for place, score in state.evaluations.items():
            assert score.mean_dice == expected.evaluations[place].mean_dice, (k, place)


def overtake(federation: Federation) -> None:
    """While a site trains from version 0, and from version 1, the others go on without it.

    The update that is late goes into version 2, as the site has no newer one by then.
    """
    site = federation.learners["north"]
    train = site.train

    def train_slowly(task, tensors, report):
        if task.version < 2 and federation.observe().state.newest == task.version:
            federation.run_process("east")
            federation.run_process("aggregator")
        return train(task, tensors, report)

    site.train = train_slowly


@pytest.mark.parametrize("victim", ["aggregator", "north"])
@pytest.mark.parametrize("policy", ["quorum", "buffer"])
def test_a_kill_with_late_updates_loses_none(tmp_path, policy, victim):
    options = {**POLICIES[policy], "targets": TWO, "rounds": 3}
    if policy == "buffer":
        options["policy_options"] = {"size": 1}
    undisturbed = Federation(tmp_path / "undisturbed", **options)
    overtake(undisturbed.start())
    calls = calls_of(undisturbed, victim, partial(take_turns, undisturbed))
    assert late_updates(undisturbed) == [("north", 0)]
    for k, after in kills(calls, few=True):
        federation = Federation(tmp_path / f"{k}-{after}", **options)
        overtake(federation.start())
        take_turns(federation, victim, k, after=after)
        check_invariants(federation)


def late_updates(federation: Federation) -> list[tuple[str, int]]:
    """Return site and base version of the updates in use that an older version came before."""
    return [
        (update.site, update.base_version)
        for version, record in federation.observe().state.rounds.items()
        for update in record.updates
        if update.base_version < version - 1
    ]


def test_two_aggregators_at_once_make_one_chain_of_versions(tmp_path):
    federation = Federation(tmp_path).start()
    federation.processes["second"] = federation.make_aggregator(work="second")
    federation.run_in_turns("aggregator", "second", *federation.targets)
    check_invariants(federation)


def test_two_processes_of_one_site_do_not_harm(tmp_path):
    federation = Federation(tmp_path).start()
    federation.processes["twin"] = federation.make_site("north")
    federation.run_in_turns("aggregator", "twin", *federation.targets)
    check_invariants(federation)


def test_a_model_that_is_damaged_or_missing_is_waited_for_and_named(federation):
    """Nothing is lost: the sites go on when it has been restored."""
    while federation.observe().state.newest < 1:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    key = federation.observe().state.models[1].payload.key
    good = federation.place.objects[key]
    shutil.rmtree(federation.home("north") / "work" / "models")  # a copy would do otherwise,
    federation.kill("north")  # as would what it has in memory
    for damaged in (None, good.data[:-1]):
        if damaged is None:
            del federation.place.objects[key]
        else:
            forge(federation.place, key, damaged)
        outcome = federation.run_process("north")
        assert not outcome.finished
        assert "to be restored" in outcome.text
        assert key in outcome.text
        sites = {site.site: site for site in summarize(federation.observe().state).sites}
        assert sites["north"].activity.startswith("failed: ")
    federation.place.objects[key] = good
    federation.run()
    check_invariants(federation)


def test_a_base_model_that_is_damaged_stops_the_round_until_it_is_restored(federation):
    while ("north", 0) not in federation.observe().state.updates:
        for name in ("aggregator", "north", "east", "south"):
            federation.step(name)
    key = federation.observe().state.models[0].payload.key
    good = federation.place.objects[key]
    forge(federation.place, key, good.data[:-1])
    federation.processes["aggregator"] = federation.make_aggregator(work="another-host")
    outcome = federation.run_process("aggregator")
    assert "damaged" in outcome.text
    assert not outcome.finished
    federation.place.objects[key] = good
    federation.run()
    check_invariants(federation)


def test_an_update_whose_payload_is_not_there_yet_is_waited_for(federation):
    while (("north", 0)) not in federation.observe().state.updates:
        for name in ("aggregator", "north", "east", "south"):
            federation.step(name)
    key = federation.observe().state.updates["north", 0].payload.key
    payload = federation.place.objects.pop(key)
    federation.run_process("east")
    federation.run_process("south")
    assert "announced but not there" in federation.run_process("aggregator").text
    federation.place.objects[key] = payload
    federation.run()
    check_invariants(federation)


def test_something_foreign_under_a_sites_key_is_reported_not_overwritten(federation):
    key = layout.fingerprint("north")
    federation.place.create(key, b"not ours")
    with pytest.raises(
        StoreError, match=f"{key} holds something that site 'north' did not publish"
    ):
        federation.step("north")
    assert federation.place.objects[key].data == b"not ours"
