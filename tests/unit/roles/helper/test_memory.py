"""What a helper's host has answered, of one track and of the others."""

from __future__ import annotations

import threading

from fedfs.protocol import layout
from fedfs.protocol.score_rules import earlier_sets
from fedfs.roles.helper.memory import AnsweredUpdates
from fedfs.trust.host_memory import HostMemory


def scores(*sites: str) -> list[str]:
    return [layout.evaluation(site, 3, "pseudo") for site in sites]


def test_each_track_has_its_own_answers_and_knows_those_of_others(tmp_path):
    memory = HostMemory(tmp_path)
    first, second = (AnsweredUpdates(memory, track) for track in ("2d-0", "2d-1"))
    first.note([*scores("east", "north"), layout.update("east", 3)], "a" * 64)
    assert not second.read()
    assert set(first.read()) == {*scores("east", "north"), layout.update("east", 3)}
    assert not first.elsewhere(["2d-1"])
    known = second.elsewhere(["2d-0", "3d_fullres-0"])
    assert earlier_sets(known) == {"pseudo": {frozenset({"east", "north"})}}


def test_helpers_of_two_tracks_do_not_decide_at_once(tmp_path):
    first, second = (AnsweredUpdates(HostMemory(tmp_path), track) for track in ("2d-0", "2d-1"))
    found: list[list[str]] = []

    def answer() -> None:
        with second.alone():
            found.append(second.elsewhere(["2d-0"]))

    other = threading.Thread(target=answer)
    with first.alone():
        other.start()
        other.join(0.1)
        assert other.is_alive()
        first.note(scores("east"), "a" * 64)
    other.join(10)
    assert found == [scores("east")]
