"""Secure sums in status, log and charter."""

from __future__ import annotations

import pytest

from fedfs.roles.reader.charter import amendments, describe
from fedfs.roles.reader.log import events
from fedfs.roles.reader.status import summarize
from support.federation import Federation

TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a reader sees before there is a helper, while it is asked, and in the end."""
    federation = Federation(
        tmp_path_factory.mktemp("study"), targets=TARGETS, secure_sums=True, encryption="age",
        rounds=1,
    )  # fmt: skip
    federation.join()
    federation.approve()
    for name in (*TARGETS, "aggregator", *TARGETS):
        federation.run_process(name)
    found = [federation.observe().state]
    federation.join_helper()
    found.append(federation.observe().state)
    federation.approve_helper()
    for name in (*TARGETS, "aggregator"):
        federation.run_process(name)
    found.append(federation.observe().state)
    federation.run()
    return [*found, federation.observe().state]


def test_status_says_who_is_waited_for(seen):
    views = [summarize(state) for state in seen]
    assert [view.waiting_for for view in views] == [
        ("the coordinator to approve a helper",),
        ("the coordinator to approve a helper",),
        ("helper",),
        (),
    ]
    assert [bool(view.helper_asks) for view in views] == [False, True, False, False]
    assert views[-1].helper == "finished"


def test_the_log_tells_each_step_of_a_sum(seen):
    told = [f"{event.who}: {event.what}" for event in events(seen[-1])]
    for text in (
        "helper: asked to be the helper",
        "aggregator: asked for the sum for version 1: east (from 0), north (from 0)",
        "helper: published the sum of masks for version 1",
    ):
        assert any(line.startswith(text) for line in told), text


def test_the_charter_shows_rules_and_helper(seen):
    (facts,) = (section for section in describe(seen[-1].charter).values() if "helper" in section)
    assert "3 or more sites" in facts["secure sums"]
    assert any("the helper has the key" in c for c in amendments(seen[-1].charters)[-1].changes)
    assert describe(seen[0].charter)["Privacy"]["helper"] == "nobody yet"
