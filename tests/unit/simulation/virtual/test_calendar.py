"""Hours, lines and couriers of sites in virtual time."""

from __future__ import annotations

import pytest

from fedfs.simulation.virtual.calendar import DAY_S, HOUR_S, Courier, Hours, Line
from fedfs.simulation.virtual.trace import SiteTrace

MONDAY_S = 1_767_571_200.0  # 2026-01-05, 0 h


def site(**changes) -> SiteTrace:
    return SiteTrace(cases=1, seconds_per_iteration=1.0, **changes)


def hour(day: int, of_day: float) -> float:
    return MONDAY_S + day * DAY_S + of_day * HOUR_S


def test_work_goes_on_in_the_next_night():
    hours = Hours(site(compute_hours=((20.0, 6.0),)), MONDAY_S)
    assert hours.after(hour(0, 12), 3 * HOUR_S) == hour(0, 23)
    assert hours.after(hour(0, 22), 9 * HOUR_S) == hour(1, 21)
    assert hours.after(hour(0, 3), 25 * HOUR_S) == hour(2, 22)


def test_work_stops_in_an_outage():
    hours = Hours(site(outages=((2.0, 50.0),)), MONDAY_S)
    assert hours.after(hour(0, 1), HOUR_S) == hour(0, 2)
    assert hours.after(hour(0, 1), 2 * HOUR_S) == hour(2, 3)


def test_a_line_drops_between_the_least_and_the_most_minutes_and_comes_back():
    line = Line("north", site(minutes_between_drops=(60.0, 90.0)), MONDAY_S)
    drop_s = line.next_drop(MONDAY_S)
    assert HOUR_S <= drop_s - MONDAY_S <= 1.5 * HOUR_S
    assert line.is_up(drop_s - 1)
    assert not line.is_up(drop_s)
    assert line.back_at(drop_s) == pytest.approx(drop_s + 60)
    assert line.next_drop(drop_s + 60) >= drop_s + 60 + HOUR_S


def test_sites_with_other_names_have_other_drops():
    drops = {
        Line(name, site(minutes_between_drops=(60.0, 90.0)), MONDAY_S).next_drop(MONDAY_S)
        for name in ("north", "south", "north")
    }
    assert len(drops) == 2


def test_a_courier_comes_on_his_days():
    courier = Courier(site(courier_days=(1, 4), courier_hour=12.0))
    assert courier.next(hour(0, 8)) == hour(1, 12)
    assert courier.next(hour(1, 12)) == hour(4, 12)
    assert courier.last(hour(1, 12)) == hour(1, 12)
    assert courier.last(hour(3, 0)) == hour(1, 12)
