"""Audit of how long sites were waited for."""

from __future__ import annotations

import dataclasses

from fedfs.roles.reader.expectation_audit import check_expectations
from support.federation import Federation

POLICY = {"policy": "quorum", "policy_options": {"sites": 2, "adaptive_grace": 1.25}}


def test_estimates_follow_from_the_records_before(tmp_path):
    federation = Federation(tmp_path, **POLICY).start()
    federation.run()
    state = federation.observe().state
    record = state.rounds[3]
    assert set(record.expected_s) == {"east", "north", "south"}
    assert list(check_expectations(record, state)) == []
    longer = {**record.expected_s, "south": record.expected_s["south"] + 1, "west": 9.0}
    found = check_expectations(dataclasses.replace(record, expected_s=longer), state)
    assert [finding.text.partition("; ")[0] for finding in found] == [
        f"expected the update of south within {longer['south']:g} s",
        "expected the update of west within 9 s",
    ]
