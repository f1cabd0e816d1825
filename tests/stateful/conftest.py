from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_power_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines, thousands of times: do not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
