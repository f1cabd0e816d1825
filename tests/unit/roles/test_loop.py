"""The loop around every role's steps."""

from __future__ import annotations

import pytest

from fedfs.errors import StoreUnavailableError
from fedfs.roles.loop import Outcome, run


def test_a_service_waits_for_a_store_that_is_away_and_cron_does_not():
    away = iter([StoreUnavailableError("gone"), StoreUnavailableError("gone"), None])
    waits = []

    def step() -> Outcome:
        error = next(away)
        if error is not None:
            raise error
        return Outcome(worked=False, finished=True, text="done")

    assert run(step, wait=lambda: waits.append(1), reset=lambda: None).finished
    assert len(waits) == 2
    away = iter([StoreUnavailableError("gone")])
    with pytest.raises(StoreUnavailableError):
        run(step, wait=lambda: None, reset=lambda: None, once=True)
