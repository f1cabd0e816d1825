"""One store as several hosts see it, each at its own time and over its own line."""

from __future__ import annotations

import pytest

from fedfs.errors import ObjectNotFoundError, StoreUnavailableError
from fedfs.simulation.virtual.calendar import DAY_S, HOUR_S, Courier, Line
from fedfs.simulation.virtual.store import PART_BYTES, Clock, HostStore, SharedStore
from fedfs.simulation.virtual.trace import LineTrace, SiteTrace

BEGIN_S = 1_767_571_200.0  # a Monday, 0 h
KEY = "federation/charter-0001.json"
SITE = SiteTrace(cases=1, seconds_per_iteration=1.0, minutes_between_drops=(60.0, 60.0))


def host(shared: SharedStore, **line) -> HostStore:
    store = HostStore(shared, Clock(BEGIN_S))
    store.connect(LineTrace(up_mb_per_s=1.0, down_mb_per_s=2.0), **line)
    return store


def keys(store: HostStore) -> list[str]:
    return [entry.key for entry in store.list("")]


def test_what_a_host_writes_shows_to_others_once_its_transfer_is_done():
    shared = SharedStore()
    writer, reader = host(shared), host(shared)
    writer.create(KEY, bytes(10_000_000))
    assert writer._clock() == BEGIN_S + 10
    assert keys(writer) == [KEY]
    assert keys(reader) == []
    with pytest.raises(ObjectNotFoundError):
        reader.get(KEY, max_bytes=10**9)
    reader._clock.advance(10)
    assert len(reader.get(KEY, max_bytes=10**9)) == 10_000_000
    assert reader._clock() == BEGIN_S + 15
    assert (writer.traffic.up_bytes, reader.traffic.down_bytes) == (1e7, 1e7)


def test_a_transfer_goes_on_behind_the_last_complete_part_after_a_drop():
    shared = SharedStore()
    writer = host(shared, line=Line("north", SITE, BEGIN_S))
    writer._clock.advance(HOUR_S - 10)
    with pytest.raises(StoreUnavailableError):
        writer.create(KEY, bytes(3 * PART_BYTES))
    assert writer._clock() == BEGIN_S + HOUR_S
    with pytest.raises(StoreUnavailableError):
        keys(writer)
    writer._clock.reach(writer.back_at())
    writer.create(KEY, bytes(3 * PART_BYTES))
    left_s = 2 * PART_BYTES / 1e6
    assert writer._clock() == pytest.approx(BEGIN_S + HOUR_S + 60 + left_s)
    assert writer.traffic.up_bytes == pytest.approx(1e7 + 2 * PART_BYTES)


def test_a_courier_brings_what_was_there_and_takes_what_was_written():
    shared = SharedStore()
    courier = Courier(SiteTrace(cases=1, seconds_per_iteration=1.0, courier_days=(1,)))
    online, usb = host(shared), host(shared, courier=courier)
    online.create(KEY, b"charter")
    usb.create("sites/usb/join-0001.json", b"join")
    visit_s = BEGIN_S + DAY_S + 12 * HOUR_S
    for store in (online, usb):
        store._clock.reach(visit_s - 1)
    assert (keys(online), keys(usb)) == ([KEY], ["sites/usb/join-0001.json"])
    for store in (online, usb):
        store._clock.reach(visit_s)
    assert keys(online) == keys(usb) == [KEY, "sites/usb/join-0001.json"]
