"""Lines about long work: with news, and every half minute without."""

from __future__ import annotations

import threading

from fedfs.roles.reader.status import summarize
from fedfs.simulation import heartbeat as heartbeats
from fedfs.simulation.heartbeat import heartbeat, look_at
from fedfs.store import open_store
from support.federation import Federation


def test_there_is_a_line_with_news_and_every_half_minute(monkeypatch):
    """A look every ten seconds, of which the fourth has news."""
    monkeypatch.setattr(heartbeats, "_LOOK_EVERY_S", 0.0)
    now_s, lines, is_over = 0, [], threading.Event()

    def clock():
        return now_s

    def look():
        nonlocal now_s
        now_s += 10
        if now_s >= 130:
            is_over.set()
        return ("old" if now_s < 40 else "new"), "at work"

    with heartbeat(look, lambda line: lines.append((now_s, line)), clock=clock):
        assert is_over.wait(timeout=20)
    assert [at_s for at_s, _ in lines if at_s < 130] == [10, 40, 70, 100]


def test_the_line_about_a_study_tells_version_and_sites(tmp_path):
    look = look_at(tmp_path / "store", "ffe, 2d")
    assert look() == (None, "ffe, 2d: the study begins")
    store = open_store(str(tmp_path / "store"), must_exist=False)
    federation = Federation(tmp_path / "hosts", store=store).start()
    assert look()[1].startswith("ffe, 2d: planning; east ")
    while federation.observe().state.newest < 1:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    assert "east" in look()[1]
    federation.run()
    version, line = look()
    assert version == 3
    assert line == f"ffe, 2d: {as_it_is(federation)}"


def as_it_is(federation):
    sites = summarize(federation.observe().state).sites
    return "; ".join(["version 3 of 3", *(f"{one.site} {one.activity}" for one in sites)])
