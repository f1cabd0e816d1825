"""Durations of a site's own rounds, from records, and until when its next update is expected."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from fedfs.protocol.messages import utc
from fedfs.protocol.round_durations import N_REMEMBERED, RoundDurations

T = 1_800_000_000.0


def records(*rounds):
    """Records opened at so many seconds, each with site -> (base version, seconds to arrive)."""
    return {
        version: SimpleNamespace(
            created_at=utc(T + opened_s),
            updates=[
                SimpleNamespace(site=site, base_version=base, arrived_s=arrived_s)
                for site, (base, arrived_s) in updates.items()
            ],
        )
        for version, (opened_s, updates) in enumerate(rounds)
    }


def durations(*rounds) -> RoundDurations:
    out = RoundDurations()
    out.read(records(*rounds))
    return out


def test_the_longest_of_the_last_rounds_times_the_factor_is_expected():
    found = durations((0, {}), (100, {"north": (0, 90.0)}), (200, {"north": (1, 40.0)}))
    assert found.estimates(["north", "south"], 1.5) == {"north": 135.0}
    assert found.expected_until("north", {"north": 135.0}, None) == T + 200 + 135
    assert found.expected_until("south", {"north": 135.0}, None) == math.inf


def test_a_late_update_has_not_taken_longer_than_its_site():
    found = durations(
        (0, {}),
        (100, {"north": (0, 90.0)}),
        (200, {}),
        (300, {"north": (1, 150.0)}),
        (400, {"north": (2, 140.0)}),
    )
    assert found.estimates(["north"], 1.0) == {"north": 150.0}  # 1 took 150 s, 2 took 90 s


def test_a_site_that_is_late_has_begun_when_it_was_last_seen():
    found = durations((0, {}), (100, {"north": (0, 90.0)}), (200, {}), (300, {}))
    estimates = found.estimates(["north"], 1.0)
    assert found.expected_until("north", estimates, None) == T + 100 + 90
    assert found.expected_until("north", estimates, (1, T + 310.0)) == T + 310 + 90


def test_what_was_long_ago_is_forgotten():
    rounds = [(0, {}), (1000, {"north": (0, 900.0)})]
    rounds += [(1000 + 100 * i, {"north": (i, 50.0)}) for i in range(1, N_REMEMBERED + 1)]
    assert durations(*rounds[:-1]).estimates(["north"], 1.0) == {"north": 900.0}
    assert durations(*rounds).estimates(["north"], 1.0) == {"north": 50.0}


def test_an_arrival_that_is_not_known_tells_nothing():
    assert durations((0, {}), (100, {"north": (0, None)})).estimates(["north"], 1.0) == {}


@pytest.mark.parametrize("step", [1, 2])
def test_records_may_be_read_as_they_come(step):
    rounds = [(100 * i, {"north": (i - 1, 70.0 + i)} if i else {}) for i in range(6)]
    whole, pieces = durations(*rounds), RoundDurations()
    for end in range(step, 7, step):
        pieces.read(records(*rounds[:end]))
    assert pieces.estimates(["north"], 2.0) == whole.estimates(["north"], 2.0)
