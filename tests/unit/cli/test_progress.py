"""Progress of a long step, as a person sees it in a terminal and in a log."""

from __future__ import annotations

import logging
import sys

import pytest

from fedfs.cli import progress
from fedfs.cli.progress import ProgressDisplay
from fedfs.learner import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_long_step_says_how_long_it_will_take(clock, caplog):
    caplog.set_level(logging.INFO, logger="fedfs")
    with ProgressDisplay() as display:
        for done in range(0, 61, 20):
            display(Progress("train", done, 240, "iteration", metrics={"loss": -0.5}))
            clock[0] += 25
        for done in (0, 300_000_000, 500_000_000):
            display(Progress("upload", done, 600_000_000, "bytes"))
            clock[0] += 31
    assert [record.message for record in caplog.records] == [
        "train 40/240 iteration  4 min left  loss -0.5",
        "upload 300.0 MB of 600.0 MB  31 s left",
        "upload 500.0 MB of 600.0 MB  12 s left",
    ]


def test_a_step_that_went_on_after_a_restart_counts_from_there(clock, caplog):
    caplog.set_level(logging.INFO, logger="fedfs")
    display = ProgressDisplay()
    display(Progress("preprocess", 90, 100, "case"))
    clock[0] += 40
    display(Progress("preprocess", 94, 100, "case"))
    assert caplog.messages == ["preprocess 94/100 case  60 s left"]


@pytest.mark.parametrize("text", ["[/]", "[bold]x[/bold", "[link=http://x]"])
def test_text_in_a_bar_is_no_markup(monkeypatch, text):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressDisplay() as display:
        display(Progress(text, 1, 2, text, metrics={text: 1.0}))
        display._bar.refresh()
