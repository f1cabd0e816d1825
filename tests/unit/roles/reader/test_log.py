"""``fedfs log``: who did what, in order."""

from __future__ import annotations

import pytest

from fedfs.protocol import layout
from fedfs.roles.reader.log import events
from fedfs.roles.site.fine_tuning import FineTuning
from support.federation import Federation


@pytest.fixture
def plain(federation):
    federation.run()
    return federation


def test_the_log_tells_who_did_what_in_order(plain):
    found = events(plain.observe().state)
    times = [event.at for event in found]
    assert times == sorted(times)
    text = "\n".join(f"{event.who}: {event.what}" for event in found)
    for line in (
        "coordinator: charter 1: began study test-",
        "coordinator: charter 2: approved east with key ",
        "north: asked to join with 20 cases and key ",
        "south: published the fingerprint of 30 cases",
        "aggregator: planned from 60 cases of east, north, south",
        "aggregator: published the initial weights, version 0",
        "east: published an update from version 1: 5 iterations on 10 cases",
        "aggregator: made version 3 by FedAvg of east 0.167 (from 2), north 0.333 (from 2)",
        "north: evaluated version 1: pseudo Dice",
        "north: validated in full version 3: mean Dice",
        "aggregator: ended the study with version 3",
    ):
        assert line in text


def test_the_log_tells_which_models_a_site_has_scored(tmp_path):
    federation = Federation(
        tmp_path, average_last=2, ema=0.5, personal={"north": FineTuning()},
        publishes_personal=("north",),
    ).start()  # fmt: skip
    federation.run()
    text = "\n".join(f"{e.who}: {e.what}" for e in events(federation.observe().state))
    assert "north: validated in full the mean of the last 2 versions: mean Dice" in text
    assert "north: validated in full the exponential average up to version 3: mean Dice" in text
    assert "north: trained version 3 further on its data alone, and validated it: mean" in text


def test_the_log_names_what_nobody_accepts(plain):
    plain.place.create(layout.failure("north", 1, 1), b"rubbish")
    last = events(plain.observe().state)[-1]
    assert (last.who, last.key) == ("nobody", layout.failure("north", 1, 1))
