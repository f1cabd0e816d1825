"""An aggregator's failures, and what other people see of them."""

from __future__ import annotations

import pytest

from fedfs.errors import StudyError
from fedfs.roles.reader.status import summarize
from support.federation import FakePlanner


class Unplanned(FakePlanner):
    def plan(self, charter, fingerprint, n_cases):
        raise StudyError("nnU-Net plans no configuration 3d_lowres for these data")


def test_everybody_can_read_why_the_aggregator_stopped(federation):
    federation.planner = Unplanned()
    for site in federation.targets:
        federation.run_process(site)
    with pytest.raises(StudyError):
        federation.run_process("aggregator")
    status = summarize(federation.observe().state)
    assert status.aggregator == "failed: nnU-Net plans no configuration 3d_lowres for these data"
    outcome = federation.step("north")
    assert outcome.text.endswith(
        "; it failed: nnU-Net plans no configuration 3d_lowres for these data"
    )
    federation.planner = FakePlanner()
    federation.processes.clear()
    federation.run()  # and it goes on
    assert federation.observe().state.finished is not None
    assert "failed" not in summarize(federation.observe().state).aggregator
