"""Any process may die at any call to the store and be started again.

A store wrapper dies at its k-th call, for every k, before or after the call took effect (the latter
is a lost acknowledgement). A fresh process then goes on; the federation must end as if nothing had
happened. These are the invariants of ``docs/protocol.md``, section "Invariants".
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dying_store import DyingStore, KilledError
from federation import Federation, forge
from fedfs.errors import StoreError
from fedfs.protocol import layout
from fedfs.status import summarize

TWO = {"east": 1.0, "north": 2.0}


def models_and_updates(federation: Federation) -> set[str]:
    return {key for key in federation.store.objects if layout.parse(key).is_payload}


def check_invariants(federation: Federation) -> None:
    state = federation.observe().state
    assert sorted(state.models) == list(range(len(state.models)))
    assert sorted(state.rounds) == sorted(state.models)
    assert not state.rejected
    used = Counter((u.site, u.base_version) for r in state.rounds.values() for u in r.updates)
    assert set(used.values()) == {1}
    assert set(used) == set(state.updates)
    for version, record in state.rounds.items():
        assert state.models[version].payload == record.model


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> set[str]:
    federation = Federation(tmp_path_factory.mktemp("undisturbed"), targets=TWO, rounds=2).start()
    federation.run()
    return models_and_updates(federation)


def run_with_a_kill(folder: Path, victim: str, k: int, *, after: bool) -> tuple[Federation, bool]:
    federation = Federation(folder, targets=TWO, rounds=2).start()
    store = DyingStore(federation.store, k, after=after)
    names = ["aggregator", *federation.targets]
    killed = False
    finished: set[str] = set()
    for name in itertools.islice(itertools.cycle(names), 400):
        if name in finished:
            continue
        try:
            if name == victim and not killed and name not in federation.processes:
                federation.processes[name] = (
                    federation.make_aggregator(store)
                    if name == "aggregator"
                    else federation.make_site(name, store)
                )
            if federation.step(name).finished:
                finished.add(name)
        except KilledError:
            killed = True
            federation.kill(name)
        if len(finished) == len(names):
            return federation, killed
    raise AssertionError("the federation did not finish")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["aggregator", "north"])
def test_a_kill_at_every_store_call_changes_nothing(tmp_path, undisturbed, victim, after):
    for k in itertools.count(1):
        federation, killed = run_with_a_kill(tmp_path / str(k), victim, k, after=after)
        if not killed:
            break  # the process made fewer than k calls
        check_invariants(federation)
        assert models_and_updates(federation) == undisturbed, f"killed at call {k}"
    assert k > 40  # or the test has not seen much


def test_two_aggregators_at_once_make_one_chain_of_versions(tmp_path):
    federation = Federation(tmp_path).start()
    federation.processes["second"] = federation.make_aggregator(work="second")
    names = ["aggregator", "second", *federation.targets]
    finished: set[str] = set()
    for name in itertools.islice(itertools.cycle(names), 500):
        if name not in finished and federation.step(name).finished:
            finished.add(name)
    assert finished == set(names)
    check_invariants(federation)


def test_two_processes_of_one_site_do_not_harm(tmp_path):
    federation = Federation(tmp_path).start()
    federation.processes["twin"] = federation.make_site("north")
    names = ["aggregator", "twin", *federation.targets]
    finished: set[str] = set()
    for name in itertools.islice(itertools.cycle(names), 500):
        if name not in finished and federation.step(name).finished:
            finished.add(name)
    assert finished == set(names)
    check_invariants(federation)


def test_a_model_that_is_damaged_or_missing_is_waited_for_and_named(federation):
    """Nothing is lost: the sites go on when it has been restored."""
    while federation.observe().state.newest < 1:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    key = federation.observe().state.models[1].payload.key
    good = federation.store.objects[key]
    shutil.rmtree(federation.home("north") / "work" / "models")  # a copy would do otherwise,
    federation.kill("north")  # as would what it has in memory
    for damaged in (None, good.data[:-1]):
        if damaged is None:
            del federation.store.objects[key]
        else:
            forge(federation.store, key, damaged)
        outcome = federation.run_process("north")
        assert not outcome.finished
        assert "version 1 to be restored" in outcome.text
        sites = {site.site: site for site in summarize(federation.observe().state).sites}
        assert sites["north"].activity.startswith("failed: ")
    federation.store.objects[key] = good
    federation.run()
    check_invariants(federation)


def test_a_base_model_that_is_damaged_stops_the_round_until_it_is_restored(federation):
    while ("north", 0) not in federation.observe().state.updates:
        for name in ("aggregator", "north", "east", "south"):
            federation.step(name)
    key = federation.observe().state.models[0].payload.key
    good = federation.store.objects[key]
    forge(federation.store, key, good.data[:-1])
    federation.processes["aggregator"] = federation.make_aggregator(work="another-host")
    outcome = federation.run_process("aggregator")
    assert "damaged" in outcome.text
    assert not outcome.finished
    federation.store.objects[key] = good
    federation.run()
    check_invariants(federation)


def test_an_update_whose_payload_is_not_there_yet_is_waited_for(federation):
    while (("north", 0)) not in federation.observe().state.updates:
        for name in ("aggregator", "north", "east", "south"):
            federation.step(name)
    key = federation.observe().state.updates["north", 0].payload.key
    payload = federation.store.objects.pop(key)
    federation.run_process("east")
    federation.run_process("south")
    assert "announced but not there" in federation.run_process("aggregator").text
    federation.store.objects[key] = payload
    federation.run()
    check_invariants(federation)


def test_something_foreign_under_a_sites_key_is_reported_not_overwritten(federation):
    key = layout.fingerprint("north")
    federation.store.create(key, b"not ours")
    with pytest.raises(StoreError, match=f"{key} holds something that this site did not publish"):
        federation.step("north")
    assert federation.store.objects[key].data == b"not ours"
