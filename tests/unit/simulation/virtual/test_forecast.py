"""Forecasts: real loops in virtual time say when a study ends and who waits for whom."""

from __future__ import annotations

import dataclasses

import pytest

from fedfs.exchange.read import open_study
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK
from fedfs.simulation.virtual.forecast import Rules, forecast
from fedfs.simulation.virtual.study import VirtualStudy
from fedfs.simulation.virtual.trace import LineTrace, SiteTrace, StudyTrace, Trace

ALL = Rules("all", {})
ADAPTIVE = Rules(
    "adaptive", {"policy": "quorum", "policy_options": {"sites": 2, "adaptive_grace": 1.25}}
)
FAST = SiteTrace(cases=10, seconds_per_iteration=1.0, seconds_per_case=0.0)
HOUR_EACH = {"local_iterations": 3600, "val_iterations": 1}


def consortium(rounds: int = 4, **sites: SiteTrace) -> Trace:
    named = {"east": FAST, "north": FAST, "south": FAST, **sites}
    return Trace(
        title="test",
        source="",
        study=StudyTrace(rounds=rounds, **HOUR_EACH),
        aggregator=LineTrace(),
        sites=dict(sorted(named.items())),
    )


def changed(**changes) -> SiteTrace:
    return dataclasses.replace(FAST, **changes)


def test_a_study_takes_as_long_as_its_slowest_site_and_names_who_holds_it_up():
    found = forecast(consortium(south=changed(seconds_per_iteration=3.0)), ALL)
    assert found.rounds == 4
    assert found.slowest_h == pytest.approx(12, rel=0.01)
    assert 12 < found.hours < 12 * 1.01
    assert found.sites["south"].holding_up_h == pytest.approx(8, rel=0.05)
    assert found.sites["north"].waiting_h == pytest.approx(8, rel=0.05)
    assert found.sites["north"].model_percent == pytest.approx(100 / 3)
    assert found.sites["north"].up_mb == pytest.approx(4 * 124.8, rel=0.01)


def test_a_model_that_learns_for_long_is_moved_in_every_round():
    trace = consortium(rounds=30)
    some = {name: trace.sites[name] for name in ("east", "north")}
    found = forecast(dataclasses.replace(trace, sites=some), ALL)
    assert found.sites["north"].down_mb == pytest.approx(30 * 124.8, rel=0.01)


def test_the_same_trace_gives_the_same_forecast_to_the_second():
    trace = consortium(rounds=2, south=changed(minutes_between_drops=(20.0, 40.0)))
    assert forecast(trace, ADAPTIVE) == forecast(trace, ADAPTIVE)


def test_a_smaller_encoding_saves_bytes_and_the_time_to_move_them():
    slow = changed(up_mb_per_s=0.1, down_mb_per_s=0.1)
    full = forecast(consortium(rounds=2, south=slow), ALL)
    small = forecast(
        consortium(rounds=2, south=slow),
        Rules("int8", {"encoding": "int8", "model_encoding": "int8"}),
    )
    assert small.moved_mb < 0.6 * full.moved_mb  # version 0 and the last one travel in full
    assert small.hours < full.hours


def test_nobody_knows_when_a_study_ends_that_waits_for_a_site_that_is_gone():
    found = forecast(consortium(south=changed(outages=((1.5, 1e6),))), ALL)
    assert found.ends == ""
    assert "the update of south from version 1" in found.waiting_for


def test_a_site_that_is_gone_is_waited_for_once_and_one_that_is_slow_always():
    gone = changed(outages=((4.5, 240.0),))
    found = forecast(consortium(rounds=12, south=gone), ADAPTIVE)
    assert max(found.round_hours) < 1.25 * 1.05
    assert sum(hours > 1.05 for hours in found.round_hours) == 1
    assert found.sites["south"].missed == 8
    slow = forecast(consortium(south=changed(cases=50, seconds_per_iteration=20.0)), ADAPTIVE)
    assert slow.missed == 0


def test_a_courier_and_a_gpu_at_night_are_a_matter_of_days():
    trace = consortium(
        rounds=3,
        north=changed(compute_hours=((20.0, 6.0),)),
        south=changed(courier_days=(1, 4)),
    )
    found = forecast(trace, ALL)
    assert 3.5 * 24 < found.round_hours[1] <= 7 * 24
    assert found.sites["south"].waiting_h > 200


def test_a_buffer_goes_on_without_sites_that_are_gone():
    rules = Rules("buffer", {"policy": "buffer", "policy_options": {"size": 3}})
    gone = changed(outages=((2.5, 1e6),))
    found = forecast(consortium(rounds=6, south=gone), rules)
    assert found.ends
    assert found.sites["south"].missed == 4


def test_a_study_in_virtual_time_is_one_that_can_be_verified(tmp_path):
    study = VirtualStudy(
        consortium(rounds=4, south=changed(outages=((2.5, 240.0),))), ADAPTIVE.options, tmp_path
    )
    study.run()
    assert study.state.rounds[3].expected_s["south"] > 3600
    findings = list(verify_study(open_study(study.store)))
    assert {finding.level for finding in findings} == {OK}
