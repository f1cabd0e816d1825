"""Tests that take minutes, and prove more of what others prove in less time."""

from __future__ import annotations

import os

import pytest

SLOW = bool(os.environ.get("FEDFS_SLOW_TESTS"))
slow = pytest.mark.skipif(not SLOW, reason="takes minutes: FEDFS_SLOW_TESTS=1")
