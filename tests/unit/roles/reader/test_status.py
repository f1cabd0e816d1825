"""The status of a study, as everybody who reads it sees it."""

from __future__ import annotations

from fedfs.roles.reader.status import summarize
from support.federation import Federation


def test_the_choice_is_waited_for(tmp_path):
    options = {"configuration": "2d,3d_fullres", "fold": "0", "rounds": 1}
    federation = Federation(tmp_path, **options).start()
    seen_waiting = set()
    while (state := federation.observe(track="2d-0").state).choice is None:
        for host in ("aggregator", *federation.targets):
            federation.step(host)
            view = summarize(federation.observe(track="2d-0").state)
            if view.phase != "finished":
                assert not view.choice_waits_for
            seen_waiting.add(view.choice_waits_for)
    assert ("east", "north", "south") in seen_waiting
    assert summarize(state).choice_waits_for == ()
    assert ("aggregator",) in seen_waiting
