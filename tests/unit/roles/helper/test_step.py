"""Secure sums: a study whose aggregator sees no update, and whose helper sees none either."""

from __future__ import annotations

import numpy as np
import pytest

from support.federation import HELPER, Federation, reach

SECURE = {"secure_sums": True, "encryption": "age", "targets": {"east": 0.1, "north": 0.2, "south": -0.3}}


def by_hand(folder, **options):
    """The same study without secure sums."""
    return Federation(folder, **{**SECURE, **options, "secure_sums": False, "encoding": "fixed", "max_move_ratio": 0})


def test_a_study_ends_with_the_versions_of_one_without_secure_sums(tmp_path):
    secure = Federation(tmp_path / "a", **SECURE).start()
    plain = by_hand(tmp_path / "b").start()
    secure.run()
    plain.run()
    state = secure.observe().state
    assert not state.rejected
    for version in (1, 2, 3):
        for name, value in secure.weights(version).items():
            np.testing.assert_allclose(value, plain.weights(version)[name], atol=2**-12)
        assert state.rounds[version].secure is not None
