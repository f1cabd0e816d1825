"""A site takes part with the dataset that it joined with."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.site.join import _check_same_dataset


def test_a_site_does_not_change_its_data_in_the_middle_of_a_study(federation):
    before, after = {"dataset": "Dataset005_A"}, "Dataset004_B"
    _check_same_dataset("north", after, federation.observe().state, before)
    federation.run_process("north")
    state = federation.observe().state
    _check_same_dataset("north", "Dataset005_A", state, before)
    with pytest.raises(UserError, match="takes part with Dataset005_A, which the study knows"):
        _check_same_dataset("north", after, state, before)
