"""Statuses: they tell others something, and cost the work nothing if they fail."""

from __future__ import annotations

import pytest

from fedfs.errors import KeyFileError, MalformedError, StoreError
from fedfs.exchange.progress import StatusReporter
from fedfs.learner import Progress
from support.federation import Federation


def reporter(federation: Federation) -> StatusReporter:
    publisher = federation.publisher("site-north", "north")
    return StatusReporter(publisher, "north", interval_s=0, clock=federation.clock)


@pytest.mark.parametrize(
    "failure",
    [KeyFileError("The external signer failed."), MalformedError("is odd"), StoreError("No."),
     OSError("gone"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")],
)  # fmt: skip
def test_a_status_that_fails_is_logged_and_no_more(federation, failure, monkeypatch, caplog):
    status = reporter(federation)

    def fail(*_args: object, **_options: object) -> None:
        raise failure

    monkeypatch.setattr(status._publisher, "publish", fail)
    status.say("train")
    status.progress(Progress("train", 1, 2, "iterations"))
    assert "could not publish the status" in caplog.text
    monkeypatch.undo()
    status.say("wait")
    assert federation.observe().state.statuses["north"].step == "wait"


def test_text_that_nobody_would_accept_is_escaped_and_cut(federation):
    status = reporter(federation)
    status.say("wait", waiting_for="a\nb\x1b[2J", error="e" * 100_000)
    message = federation.observe().state.statuses["north"]
    assert message.waiting_for == r"a\nb\x1b[2J"
    assert len(message.error) < 3000


def test_a_flood_of_refused_objects_does_not_make_statuses_large(federation):
    status = reporter(federation)
    status.rejected = {f"sites/x/join-{n:04d}.json": "is odd" for n in range(1000)}
    status.say("wait")
    assert len(federation.observe().state.statuses["north"].rejected) == 100
