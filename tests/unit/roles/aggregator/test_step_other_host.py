"""An aggregator on a host that lacks keys or files: that is its own problem, and no refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedfs.errors import SetupError
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.keys import replace_aggregator_key
from fedfs.trust.keyring import Keyring
from support.federation import Federation, reach, with_keys_of_charter


def move(federation: Federation) -> Path:
    """Let another host aggregate, with a key of its own; return the files left behind."""
    other = Keyring(federation.home("other"), federation.charter.study)
    home = federation.home("coordinator")
    office = Coordinator(federation.store, home, clock=federation.clock)
    replace_aggregator_key(
        office, other.create("aggregator").public, other.create_identity("aggregator").recipient
    )
    home.rename(federation.home("retired"))
    federation.home("other").rename(home)
    with_keys_of_charter(federation)
    return federation.home("retired")


def bring_keys(federation: Federation, retired: Path) -> None:
    """Copy what opens what was encrypted for the aggregator before."""
    (before,) = retired.rglob("aggregator.age")
    folder = federation.keyring("coordinator").folder
    shutil.copy(before, folder / "aggregator.0.age")
    with_keys_of_charter(federation)


def test_updates_that_this_host_cannot_decrypt_are_waited_for_and_not_refused(tmp_path):
    federation = Federation(tmp_path, encryption="age", rounds=2).start()
    reach(federation, 1)
    for site in federation.targets:
        federation.run_process(site)
    retired = move(federation)
    outcome = federation.run_process("aggregator")
    assert (
        "the update of north from version 1 cannot be decrypted on the aggregator's host"
        in outcome.text
    )
    assert "as aggregator.0.age" in outcome.text
    assert not federation.process("aggregator").refused
    bring_keys(federation, retired)
    federation.run()
    record = federation.observe().state.rounds[2]
    assert [update.site for update in record.updates] == sorted(federation.targets)
    assert record.excluded == ()


def test_a_memory_that_cannot_be_read_is_named_before_anything_is_waited_for(tmp_path):
    federation = Federation(tmp_path, encryption="age", rounds=2, strategy="FedAdam").start()
    reach(federation, 1)
    federation.process("aggregator").check_memory()
    retired = move(federation)
    with pytest.raises(SetupError, match="cannot decrypt the memory of FedAdam after version 1"):
        federation.process("aggregator").check_memory()
    status = federation.observe().state.statuses[""]
    assert "the memory of FedAdam after version 1 cannot be decrypted" in status.error
    bring_keys(federation, retired)
    federation.process("aggregator").check_memory()
    federation.run()


def test_fingerprints_that_this_host_cannot_decrypt_are_no_fault_of_the_sites(tmp_path):
    federation = Federation(tmp_path, encryption="age", min_sites=2)
    federation.join()
    federation.approve()
    for site in federation.targets:
        federation.run_process(site)
    retired = move(federation)
    with pytest.raises(SetupError, match="cannot decrypt sites/east/fingerprint-0001.json"):
        federation.run_process("aggregator")
    bring_keys(federation, retired)
    federation.run()


@pytest.mark.parametrize("mode", ["ffe", "asym"])
def test_a_late_site_whose_data_this_host_cannot_decrypt_is_admitted_later(tmp_path, mode):
    network = {"a.weight": [2, 3], "b.bias": [4]}
    names = ("east", "north", "south")
    options = {"mode": mode, "networks": dict.fromkeys(names, network)} if mode == "asym" else {}
    federation = Federation(tmp_path, encryption="age", min_sites=2, rounds=2, **options)
    federation.start_with_late("north")
    federation.run_process("north")
    retired = move(federation)
    for _ in range(2):
        outcome = federation.run_process("aggregator")
    assert "the announcement of north cannot be decrypted" in outcome.text
    assert not federation.process("aggregator").refused
    bring_keys(federation, retired)
    federation.run()
    assert set(federation.observe().state.admissions) == {"north"}


def test_a_payload_that_is_still_missing_is_no_work(federation):
    reach(federation, 0)
    for site in federation.targets:
        federation.run_process(site)
    update = federation.observe().state.updates["south", 0]
    payload = federation.place.objects.pop(update.payload.key)
    for _ in range(3):
        outcome = federation.step("aggregator")
        assert not outcome.worked
        assert "announced but not there" in outcome.text
        federation.kill("aggregator")
    for _ in range(3):
        assert not federation.step("aggregator").worked
    federation.place.objects[update.payload.key] = payload
    federation.run()


def test_a_disk_that_is_full_is_not_taken_for_a_missing_key(federation, monkeypatch):
    for name in (*federation.targets, "aggregator", "north"):
        federation.run_process(name)

    def fail(*_args, **_options):
        raise SetupError("/cache/payload on this host cannot be written: no space is left.")

    monkeypatch.setattr("fedfs.exchange.payloads.fetch_payload", fail)
    with pytest.raises(SetupError, match="no space is left"):
        federation.run_process("aggregator")
    view = federation.observe().state.statuses[""]
    assert "/cache" not in f"{view.error} {view.waiting_for}"
